# The image of every process: the web by default, a worker with `python manage.py sync_worker`.
FROM python:3.13-slim

ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /srv/atom

COPY requirements/production.txt requirements/production.txt
RUN pip install --require-hashes -r requirements/production.txt

COPY . .
# Names the static files by their content, as production settings do; the values count for this one step only.
RUN ATOM_ENV=production ATOM_SECRET_KEY=build ATOM_ALLOWED_HOSTS=build DATABASE_URL=postgresql:///build \
    ATOM_ENCRYPTION_KEYS=$(python -c "from cryptography.fernet import Fernet; print(Fernet.generate_key().decode())") \
    python manage.py collectstatic --noinput --verbosity 0
# Files keep the modes that they have where the image is built, which may be their owner's alone (umask 077).
RUN chmod -R a+rX .
RUN useradd --system --no-create-home atom
USER atom

ENV ATOM_ENV=production
EXPOSE 8000
# Behind a proxy: it must overwrite X-Forwarded-For and X-Forwarded-Proto, adding nothing to what clients send of them (see README).
# No log of requests (-v 0): the addresses of some are secrets, as a link to another password is. The proxy has one.
CMD ["daphne", "-v", "0", "--proxy-headers", "-b", "0.0.0.0", "-p", "8000", "atom.asgi:application"]
