"""python measured.py COMMAND...: runs it and adds its peak memory to the JSON that it prints last. Standard library only."""

import json
import resource
import subprocess
import sys

done = subprocess.run(sys.argv[1:], stdout=subprocess.PIPE, text=True, check=False)
if done.returncode == 0:
    found = json.loads(done.stdout.strip().splitlines()[-1])
    found["peak_mib"] = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(json.dumps(found))
sys.exit(done.returncode)
