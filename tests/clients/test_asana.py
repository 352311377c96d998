"""Asana's own client, which others wrote, against Asana's stand-in."""

from __future__ import annotations

from typing import Any

import asana
import pytest
from asana.rest import ApiException

from integrations.sandbox.world import present, stamp


@pytest.fixture
def client(sandbox: Any) -> Any:
    configuration = asana.Configuration()
    configuration.host = f"{sandbox.root}/asana/api/1.0"
    configuration.access_token = "2/1200/sandbox"
    configuration.retry_strategy = configuration.retry_strategy.new(total=0, raise_on_status=False)
    client = asana.ApiClient(configuration)
    yield client
    client.pool.terminate()
    client.pool.join()


def test_it_says_whose_the_token_is_and_what_it_reaches(client: Any, sandbox: Any):
    me = asana.UsersApi(client).get_user("me", {"opt_fields": "name,email,workspaces.name"})
    assert me["gid"] == "1200000001000000"
    assert me["email"].endswith("@northwind.test")
    workspaces = list(asana.WorkspacesApi(client).get_workspaces({"limit": 1}))
    assert len(workspaces) == sandbox.truth("asana")["workspaces"]
    assert set(workspaces[0]) == {"gid", "resource_type", "name"}  # compact
    users = list(asana.UsersApi(client).get_users({"limit": 4, "opt_fields": "email"}))
    assert len({user["gid"] for user in users}) == len(users) == sandbox.truth("asana")["users"]


def test_it_walks_projects_tasks_subtasks_and_stories(client: Any, sandbox: Any):
    truth = sandbox.truth("asana")
    projects, tasks, subtasks, stories = [], {}, {}, {}
    api = asana.TasksApi(client)
    for workspace in asana.WorkspacesApi(client).get_workspaces({}):
        projects += asana.ProjectsApi(client).get_projects_for_workspace(workspace["gid"], {"limit": 2})
        mine = api.get_tasks({"assignee": "me", "workspace": workspace["gid"], "opt_fields": "num_subtasks"})
        tasks |= {task["gid"]: task for task in mine}
    for project in projects:
        found = list(
            api.get_tasks({"project": project["gid"], "limit": 50, "opt_fields": "num_subtasks,memberships.project"})
        )
        assert all(project["gid"] in {place["project"]["gid"] for place in task["memberships"]} for task in found)
        tasks |= {task["gid"]: task for task in found}
    left = list(tasks.values())
    while left:
        task = left.pop()
        if task["num_subtasks"]:
            below = list(api.get_subtasks_for_task(task["gid"], {"opt_fields": "num_subtasks,parent.name"}))
            assert len(below) == task["num_subtasks"]
            assert {row["parent"]["gid"] for row in below} == {task["gid"]}
            subtasks |= {row["gid"]: row for row in below}
            left += below
    for gid in (*tasks, *subtasks):
        stories |= {row["gid"]: row for row in asana.StoriesApi(client).get_stories_for_task(gid, {})}
    assert (len(projects), len(tasks), len(subtasks), len(stories)) == (
        truth["projects"],
        truth["tasks"],
        truth["subtasks"],
        truth["stories"],
    )


def test_only_what_changed_since_is_listed(client: Any):
    project = next(iter(asana.ProjectsApi(client).get_projects_for_workspace("1202010000000000", {})))["gid"]
    api, since = asana.TasksApi(client), stamp(int(present(None).timestamp()) - 100 * 86_400)
    every = list(api.get_tasks({"project": project, "opt_fields": "modified_at"}))
    recent = list(api.get_tasks({"project": project, "opt_fields": "modified_at", "modified_since": since}))
    assert 0 < len(recent) < len(every)
    assert {task["gid"] for task in recent} == {task["gid"] for task in every if task["modified_at"] >= since}


@pytest.mark.parametrize(
    ("call", "status"),
    [
        (lambda client: list(asana.TasksApi(client).get_tasks({})), 400),
        (lambda client: list(asana.TasksApi(client).get_tasks({"project": "7"})), 404),
        (lambda client: list(asana.UsersApi(client).get_users({"offset": "old"})), 400),
        (lambda client: asana.TasksApi(client).get_task("1204010000999999", {}), 404),
    ],
)
def test_what_is_wrong_comes_in_asanas_words(client: Any, call: Any, status: int):
    with pytest.raises(ApiException) as caught:
        call(client)
    assert caught.value.status == status
    assert b'"errors":[{"message":' in caught.value.body


def test_a_limit_is_told_with_its_end(client: Any, sandbox: Any):
    sandbox.control(rate_limit_every=1, retry_after=9)
    with pytest.raises(ApiException) as caught:
        list(asana.WorkspacesApi(client).get_workspaces({}))
    assert (caught.value.status, caught.value.headers["Retry-After"]) == (429, "9")
