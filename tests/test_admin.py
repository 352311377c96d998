"""The Django admin: what staff see of every tenant, what they may do, and what nobody gets to see."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from django.contrib import admin
from django.contrib.contenttypes.models import ContentType
from django.core.cache import cache
from django.db import connection as database
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from psycopg.types.range import Range

from atom.access import system_actor
from atom.models import ApiKey, AuditEvent, Membership, Tenant, User
from atom.tenancy import across_tenants, tenant_scope
from atom.tries import SIGN_IN
from historical_sync import webhooks
from historical_sync.automation import Delivery, Notice, WebhookEndpoint
from historical_sync.models import Coverage, HistoricalSyncJob, JobEvent, QuarantinedRecord, SyncChunk
from integrations.models import Connection
from tests.graphs import make_connection, make_job, one_of_everything

pytestmark = pytest.mark.django_db

READ_ONLY = (Connection, HistoricalSyncJob, SyncChunk, QuarantinedRecord, JobEvent, Coverage)
SHOWN = (*READ_ONLY, Tenant, ApiKey, User)


def path(model: Any, *parts: Any) -> str:
    return "/".join(["/admin", model._meta.app_label, model._meta.model_name, *map(str, parts), ""])


@pytest.fixture
def staff(cast: SimpleNamespace) -> Client:
    client = Client()
    client.force_login(User.objects.create_superuser("root@atom.test", "root"))
    return client


@pytest.fixture
def rows(cast: SimpleNamespace) -> dict[str, Any]:
    return {tenant.slug: one_of_everything(tenant) for tenant in (cast.acme, cast.globex)}


@pytest.mark.parametrize("model", SHOWN, ids=lambda model: model.__name__)
def test_every_list_and_every_row_of_every_tenant_can_be_seen(staff: Client, rows: Any, model: Any) -> None:
    with across_tenants("a test looks"):
        ids = list(model._default_manager.values_list("pk", flat=True))
    assert len(ids) >= 2
    listed = staff.get(path(model))
    assert listed.status_code == 200
    for pk in ids:
        shown = staff.get(path(model, pk, "change"))
        assert shown.status_code == 200
        for secret in ("secret-access-token", "secret-refresh-token", "sealed"):
            assert secret not in shown.content.decode()
            assert secret not in listed.content.decode()
    assert staff.get(path(model), {"q": "acme"}).status_code == 200


@pytest.mark.parametrize("model", READ_ONLY, ids=lambda model: model.__name__)
def test_what_a_hand_edit_would_make_untrue_is_read_only(staff: Client, rows: Any, model: Any) -> None:
    with across_tenants("a test looks"):
        pk = model._default_manager.first().pk
        before = model._default_manager.count()
    assert staff.get(path(model, "add")).status_code == 403
    assert staff.post(path(model, pk, "change"), {"status": "completed"}).status_code == 403
    assert staff.post(path(model, pk, "delete"), {"post": "yes"}).status_code == 403
    assert staff.post(path(model), {"action": "delete_selected", "_selected_action": [pk]}).status_code in (200, 302)
    with across_tenants("a test looks"):
        assert model._default_manager.count() == before
    assert 'name="_save"' not in staff.get(path(model, pk, "change")).content.decode()


@pytest.mark.parametrize("model", SHOWN, ids=lambda model: model.__name__)
def test_a_list_asks_as_much_for_many_rows_as_for_few(
    staff: Client, cast: SimpleNamespace, rows: Any, model: Any, django_assert_max_num_queries: Any
) -> None:
    for _ in range(6):
        one_of_everything(cast.acme)
        User.objects.create_user(f"user{User.objects.count()}@acme.test", "x")
        Tenant.objects.create(name="T", slug=f"t{Tenant.objects.count()}")
    with django_assert_max_num_queries(14):
        assert staff.get(path(model)).status_code == 200


def act(client: Client, action: str, *jobs: HistoricalSyncJob) -> str:
    """What the list says after the action, which was confirmed where it asks for that."""
    form = {"action": action, "_selected_action": [j.pk for j in jobs], "post": "yes"}
    reply = client.post(path(HistoricalSyncJob), form, follow=True)
    assert reply.status_code == 200
    return reply.content.decode()


def test_jobs_of_any_tenant_are_cancelled_and_resumed_by_their_actions(staff: Client, cast: SimpleNamespace) -> None:
    jobs = []
    for tenant in (cast.acme, cast.globex):
        with tenant_scope(tenant.id):
            jobs.append(make_job(make_connection(tenant)))
    with tenant_scope(cast.acme.id):
        ended = make_job(make_connection(cast.acme), status="completed", completed_at=timezone.now())
        failed = make_job(make_connection(cast.acme), status="failed", completed_at=timezone.now())
    said = act(staff, "cancel", *jobs, ended)
    assert "2 jobs cancelled; workers let go at their next page." in said
    assert "This import is completed" in said
    assert "1 job resumed." in act(staff, "resume", failed)
    with across_tenants("a test looks"):
        found = {job.id: job.status for job in HistoricalSyncJob.objects.all()}
        who = set(JobEvent.objects.values_list("actor", "kind"))
    assert [found[job.id] for job in (*jobs, ended, failed)] == ["cancelled", "cancelled", "completed", "pending"]
    assert {("root@atom.test (admin)", "cancel_requested"), ("root@atom.test (admin)", "resumed")} <= who


def test_a_jobs_page_leads_to_where_it_is_cancelled_and_resumed(staff: Client, cast: SimpleNamespace) -> None:
    """Both are actions of the list: the page of a job that is stuck had nothing to do on it."""
    with tenant_scope(cast.acme.id):
        stuck = make_job(make_connection(cast.acme), status="running", planned=True)
        over = make_job(make_connection(cast.acme), status="completed", completed_at=timezone.now())
    there = f"{path(HistoricalSyncJob)}?q={stuck.id}"
    assert there in staff.get(path(HistoricalSyncJob, stuck.id, "change")).content.decode()
    listed = staff.get(there).content.decode()
    assert str(stuck.connection) in listed
    assert 'value="resume"' in listed
    assert "?q=" not in staff.get(path(HistoricalSyncJob, over.id, "change")).content.decode()


def test_jobs_are_cancelled_after_a_question(staff: Client, cast: SimpleNamespace) -> None:
    with tenant_scope(cast.acme.id):
        job = make_job(make_connection(cast.acme), status="running", phase_detail="issues of 3 May", planned=True)
        other = make_job(make_connection(cast.acme, "salesforce"))
    page = staff.post(path(HistoricalSyncJob), {"action": "cancel", "_selected_action": [job.pk]})
    text = page.content.decode()
    assert page.status_code == 200
    assert "They end for good." in text
    assert f'href="{path(HistoricalSyncJob, job.pk, "change")}"' in text
    assert "Importing issues of 3 May" in text
    assert str(other.pk) not in text
    with tenant_scope(cast.acme.id):
        job.refresh_from_db()
        assert (job.status, job.control) == ("running", "none")
    yes = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', text))
    assert yes.pop("csrfmiddlewaretoken", None)
    assert "1 job cancelled" in staff.post(path(HistoricalSyncJob), yes, follow=True).content.decode()
    with tenant_scope(cast.acme.id):
        job.refresh_from_db()
        other.refresh_from_db()
    assert (job.status, other.status) == ("cancelled", "pending")


def test_staff_without_a_workspace_find_the_admin_from_the_site(staff: Client) -> None:
    page = staff.get("/integrations")
    assert page.status_code == 403
    assert 'href="/admin/"' in page.content.decode()
    assert 'rel="icon"' in staff.get("/admin/").content.decode()


def test_staff_who_may_only_look_cannot_act(cast: SimpleNamespace) -> None:
    from django.contrib.auth.models import Permission

    user = User.objects.create_user("look@atom.test", "look", is_staff=True)
    user.user_permissions.add(Permission.objects.get(codename="view_historicalsyncjob"))
    client = Client()
    client.force_login(user)
    with tenant_scope(cast.acme.id):
        job = make_job(make_connection(cast.acme))
    assert "Cancel the selected jobs" not in client.get(path(HistoricalSyncJob)).content.decode()
    act(client, "cancel", job)
    with tenant_scope(cast.acme.id):
        job.refresh_from_db()
    assert job.status == "pending"
    assert client.get(path(Connection)).status_code == 403


def test_jobs_are_filtered_and_found(staff: Client, cast: SimpleNamespace) -> None:
    with tenant_scope(cast.acme.id):
        running = make_job(make_connection(cast.acme), status="running", phase_detail="issues of 3 May", planned=True)
        make_job(make_connection(cast.acme, "salesforce"), status="completed", completed_at=timezone.now())
    for query in (
        {"status__exact": "running"}, {"connection__provider_slug": "github"}, {"q": str(running.id)}, {"q": "acme-github"},
    ):  # fmt: skip
        text = staff.get(path(HistoricalSyncJob), query).content.decode()
        assert str(running.id) in text, query
        assert "1 historical sync job" in text, query
    assert "Importing issues of 3 May" in staff.get(path(HistoricalSyncJob)).content.decode()
    belonging = staff.get(path(HistoricalSyncJob, running.id, "change")).content.decode()
    for model in (SyncChunk, JobEvent, QuarantinedRecord):
        link = f"{path(model)}?job__id__exact={running.id}"
        assert link in belonging
        assert staff.get(link).status_code == 200


def test_lists_lead_to_what_their_rows_belong_to_and_rows_to_what_belongs_to_them(staff: Client, rows: Any) -> None:
    with across_tenants("a test looks"):
        connection = Connection.objects.select_related("tenant").first()
        job = HistoricalSyncJob.objects.filter(connection=connection).first()
    assert connection is not None
    assert job is not None
    listed = staff.get(path(SyncChunk)).content.decode()
    assert f'href="{path(HistoricalSyncJob, job.pk, "change")}"' in listed
    for row, field in ((connection, "connection"), (connection.tenant, "tenant")):
        lists = re.findall(rf'href="([^"]+\?{field}__id__exact={row.pk})"', staff.get(path(type(row), row.pk, "change")).content.decode())  # fmt: skip
        assert f"{path(HistoricalSyncJob)}?{field}__id__exact={row.pk}" in lists
        assert len(lists) >= 5
        assert {staff.get(address).status_code for address in lists} == {200}


def test_no_filter_is_titled_twice(staff: Client, rows: Any) -> None:
    for model in admin.site._registry:
        titles = re.findall(r"<summary[^>]*>\s*([^<]+?)\s*</summary>", staff.get(path(model)).content.decode())
        assert not [title for title in titles if re.match(r"By (by|is) ", title)], model


def test_who_may_look_at_the_queue_can_take_nothing_away(cast: SimpleNamespace, staff: Client) -> None:
    from procrastinate.contrib.django.models import ProcrastinateJob

    from historical_sync import tasks

    with tenant_scope(cast.acme.id):
        tasks.enqueue(make_job(make_connection(cast.acme)), 1)
    entry = ProcrastinateJob.objects.get()
    for action in ("retry", "cancel", "abort"):
        staff.post(path(ProcrastinateJob), {"action": action, "_selected_action": [entry.pk]})
    assert [(one.pk, one.status, one.abort_requested) for one in ProcrastinateJob.objects.all()] == [(entry.pk, "todo", False)]  # fmt: skip


@pytest.fixture
def helper(cast: SimpleNamespace) -> SimpleNamespace:
    """Staff who may do everything with users and nothing else. user, client."""
    from django.contrib.auth.models import Permission

    user = User.objects.create_user("help@atom.test", "help", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(content_type__app_label="atom", codename__endswith="_user"))
    client = Client()
    client.force_login(user)
    return SimpleNamespace(user=user, client=client)


def test_who_may_change_users_gives_nobody_more_rights(helper: SimpleNamespace, cast: SimpleNamespace) -> None:
    from django.contrib.auth.models import Permission

    every = {"is_active": "on", "is_staff": "on", "is_superuser": "on", "user_permissions": list(Permission.objects.values_list("pk", flat=True))}  # fmt: skip
    for person in (helper.user, cast.bob):
        before = set(person.user_permissions.all())
        form = every | {"email": person.email, "name": "Changed"}
        assert helper.client.post(path(User, person.pk, "change"), form).status_code == 302
        found = User.objects.get(pk=person.pk)
        assert (found.name, found.is_staff, found.is_superuser) == ("Changed", person.is_staff, False)
        assert set(found.user_permissions.all()) == before


def test_superusers_are_changed_by_superusers_alone(helper: SimpleNamespace, staff: Client) -> None:
    root = User.objects.get(email="root@atom.test")
    new = {"usable_password": "true", "password1": "a long secret here", "password2": "a long secret here", "set-password": "1"}  # fmt: skip
    form = {"email": "taken@atom.test", "name": "", "is_active": "on"}
    for address, posted in (
        (path(User, root.pk, "change"), form), (path(User, root.pk, "password"), new), (path(User, root.pk, "delete"), {"post": "yes"}),
        (path(User), {"action": "delete_selected", "_selected_action": [root.pk], "post": "yes"}),
    ):  # fmt: skip
        assert helper.client.post(address, posted).status_code == 403, address
    found = User.objects.get(pk=root.pk)
    assert (found.email, found.check_password("root")) == ("root@atom.test", True)
    assert staff.post(path(User, root.pk, "change"), form | {"is_staff": "on", "is_superuser": "on"}).status_code == 302
    assert User.objects.get(pk=root.pk).email == "taken@atom.test"


def test_what_a_group_may_do_is_changed_by_superusers_alone(helper: SimpleNamespace, staff: Client) -> None:
    from django.contrib.auth.models import Group, Permission

    group = Group.objects.create(name="helpers")
    helper.user.groups.add(group)
    helper.user.user_permissions.add(*Permission.objects.filter(content_type__model="group"))
    every = {"name": "helpers", "permissions": list(Permission.objects.values_list("pk", flat=True))}
    assert "helpers" in helper.client.get(path(Group)).content.decode()
    for address in (path(Group, group.pk, "change"), path(Group, "add"), path(Group, group.pk, "delete")):
        assert helper.client.post(address, every | {"post": "yes"}).status_code == 403, address
    assert not group.permissions.exists()
    assert staff.post(path(Group, group.pk, "change"), every).status_code == 302
    assert group.permissions.count() == len(every["permissions"])


def people_form(tenant: Tenant, *roles: str, name: str = "", plan: str = "team") -> dict[str, Any]:
    """The tenant's page as it is posted: its members, by address, in these roles; one "" more is a row to fill."""
    with tenant_scope(tenant.id):
        found = list(Membership.objects.filter(tenant=tenant).order_by("user__email"))
    form = {"name": name or tenant.name, "plan": plan, "memberships-TOTAL_FORMS": len(roles), "memberships-INITIAL_FORMS": len(found)}  # fmt: skip
    for number, (one, role) in enumerate(zip(found, roles, strict=False)):
        form |= {f"memberships-{number}-id": one.id, f"memberships-{number}-tenant": tenant.id}
        form |= {f"memberships-{number}-user": one.user_id, f"memberships-{number}-role": role}
    return form


def roles_in(tenant: Tenant) -> dict[str, str]:
    with tenant_scope(tenant.id):
        return dict(Membership.objects.filter(tenant=tenant).values_list("user__email", "role"))


def told_in(tenant: Tenant) -> set[tuple[str, str, str]]:
    with tenant_scope(tenant.id):
        return set(AuditEvent.objects.filter(actor="The operator").values_list("action", "subject", "detail"))


def test_a_tenants_plan_and_people_are_changed_here(staff: Client, cast: SimpleNamespace) -> None:
    form = people_form(cast.globex, "admin", "") | {
        "memberships-1-tenant": cast.globex.id, "memberships-1-user": cast.bob.id, "memberships-1-role": "owner",
    }  # fmt: skip
    assert staff.post(path(Tenant, cast.globex.id, "change"), form).status_code == 302
    cast.globex.refresh_from_db()
    assert cast.globex.plan == "team"
    assert roles_in(cast.globex) == {"charlie@globex.test": "admin", "bob@acme.test": "owner"}
    told = told_in(cast.globex)
    assert told == {
        ("workspace.plan", "Team", ""),
        ("member.role", "charlie@globex.test", "from owner to admin"),
        ("member.added", "bob@acme.test", "as owner"),
    }
    form = people_form(cast.globex, "owner", "admin", name="Globex 2") | {"memberships-1-DELETE": "on"}
    assert staff.post(path(Tenant, cast.globex.id, "change"), form).status_code == 302
    later = told_in(cast.globex) - told
    assert later == {("member.removed", "charlie@globex.test", "was admin"), ("workspace.renamed", "Globex 2", "was Globex")}  # fmt: skip
    assert staff.post(path(Tenant, cast.globex.id, "delete"), {"post": "yes"}).status_code == 403


def test_a_tenants_page_asks_for_all_of_its_people_at_once(staff: Client, cast: SimpleNamespace) -> None:
    counts = []
    for more in (0, 6):
        for number in range(more):
            user = User.objects.create_user(f"p{number}@acme.test")
            with tenant_scope(cast.acme.id):
                Membership.objects.create(tenant=cast.acme, user=user)
        with CaptureQueriesContext(database) as queries:
            page = staff.get(path(Tenant, cast.acme.id, "change")).content.decode()
        counts.append(len(queries))
    assert page.count("p5@acme.test") >= 1
    assert counts[0] == counts[1], [query["sql"][:120] for query in queries]


def test_a_tenant_keeps_an_owner_whatever_is_posted(staff: Client, cast: SimpleNamespace) -> None:
    address, before = path(Tenant, cast.acme.id, "change"), roles_in(cast.acme)
    unowned = (
        people_form(cast.acme, "admin", "member", "viewer"),
        people_form(cast.acme, "owner", "member", "viewer") | {"memberships-0-DELETE": "on"},
        people_form(cast.acme, "owner", "member", "viewer")
        | {f"memberships-{number}-DELETE": "on" for number in range(3)},
    )
    for form in unowned:
        reply = staff.post(address, form)
        assert reply.status_code == 200
        assert "A workspace needs an owner. Make somebody else an owner first." in reply.content.decode()
    assert (roles_in(cast.acme), told_in(cast.acme)) == (before, set())
    in_turn = people_form(cast.acme, "viewer", "owner", "viewer")
    assert staff.post(address, in_turn).status_code == 302
    assert roles_in(cast.acme) == before | {"alice@acme.test": "viewer", "bob@acme.test": "owner"}


def test_a_tenant_that_has_no_owner_gets_its_people_all_the_same(staff: Client, cast: SimpleNamespace) -> None:
    empty = Tenant.objects.create(name="Empty", slug="empty")
    form = people_form(empty, "") | {
        "memberships-0-tenant": empty.id, "memberships-0-user": cast.bob.id, "memberships-0-role": "viewer",
    }  # fmt: skip
    assert staff.post(path(Tenant, empty.id, "change"), form).status_code == 302
    assert roles_in(empty) == {"bob@acme.test": "viewer"}


def test_a_membership_stays_the_persons_that_it_was_made_for(staff: Client, cast: SimpleNamespace) -> None:
    form = people_form(cast.globex, "owner") | {"memberships-0-user": cast.bob.id}
    assert staff.post(path(Tenant, cast.globex.id, "change"), form).status_code == 302
    assert roles_in(cast.globex) == {"charlie@globex.test": "owner"}


def test_who_is_deleted_leaves_their_workspaces_in_the_log_and_last_owners_stay(
    staff: Client, cast: SimpleNamespace
) -> None:
    def delete_selected(*people: User) -> str:
        form = {"action": "delete_selected", "_selected_action": [one.pk for one in people], "post": "yes"}
        return staff.post(path(User), form, follow=True).content.decode()

    one_by_one = path(User, cast.alice.pk, "delete")
    for said in (
        staff.get(one_by_one).content.decode(), staff.post(one_by_one, {"post": "yes"}).content.decode(),
        delete_selected(cast.alice, cast.bob),
    ):  # fmt: skip
        assert "Acme, whose last owner is alice@acme.test" in said
    assert set(roles_in(cast.acme)) == {"alice@acme.test", "bob@acme.test", "vera@acme.test"}
    with tenant_scope(cast.acme.id):
        Membership.objects.filter(user=cast.vera).update(role="owner")
    assert "whose last owner is" in delete_selected(cast.alice, cast.vera), "both at once"
    assert staff.post(one_by_one, {"post": "yes"}).status_code == 302
    assert "Successfully deleted 1 user" in delete_selected(cast.bob)
    assert roles_in(cast.acme) == {"vera@acme.test": "owner"}
    assert told_in(cast.acme) == {
        ("member.removed", "alice@acme.test", "was owner"),
        ("member.removed", "bob@acme.test", "was member"),
    }
    assert not User.objects.filter(pk__in=(cast.alice.pk, cast.bob.pk)).exists()


def test_a_key_is_shown_once(staff: Client, cast: SimpleNamespace) -> None:
    from atom.access import actor_for_key

    form = {"tenant": cast.acme.id, "role": "viewer", "name": "report"}
    said = staff.post(path(ApiKey, "add"), form, follow=True).content.decode()
    with tenant_scope(cast.acme.id):
        key = ApiKey.objects.get(name="report")
    assert "never used" in staff.get(path(ApiKey)).content.decode()
    found = re.search(rf"{re.escape(key.prefix)}\.[\w-]+", said)
    assert found is not None
    actor = actor_for_key(found[0])
    assert actor is not None
    assert (actor.tenant, actor.role) == (cast.acme, "viewer")
    for page in (path(ApiKey), path(ApiKey, key.pk, "change")):
        text = staff.get(page).content.decode()
        assert found[0] not in text
        assert re.search(r"(?i)last used", text)
        assert "never used" not in text, "it was a moment ago"
    form = {"name": "report", "revoked": "on", "expiry_date_0": "", "expiry_date_1": ""}
    assert staff.post(path(ApiKey, key.pk, "change"), form).status_code == 302
    assert staff.post(path(ApiKey, key.pk, "delete"), {"post": "yes"}).status_code == 403
    assert actor_for_key(found[0]) is None
    with tenant_scope(cast.acme.id):
        told = list(AuditEvent.objects.order_by("at").values_list("actor", "action", "subject", "detail"))
    assert told == [("The operator", "key.created", "report", "as viewer"), ("The operator", "key.revoked", "report", "")]  # fmt: skip


def test_what_is_changed_of_a_key_is_in_the_log_and_an_ended_one_stays_so(staff: Client, cast: SimpleNamespace) -> None:
    with tenant_scope(cast.acme.id):
        key, _ = ApiKey.objects.create_key(tenant=cast.acme, role="member", name="report")
    address = path(ApiKey, key.pk, "change")

    def change(name: str, day: str, clock: str) -> Any:
        assert staff.post(address, {"name": name, "expiry_date_0": day, "expiry_date_1": clock}).status_code == 302
        with tenant_scope(cast.acme.id):
            return ApiKey.objects.get(pk=key.pk)

    change("report", "2040-01-02", "03:04:05")
    assert told_in(cast.acme) == {("key.changed", "report", "ends 2 Jan 2040, 03:04 UTC, was when revoked")}
    ended = change("weekly report", "2020-01-01", "00:00:00")
    assert ("key.changed", "weekly report", "was report") in told_in(cast.acme)
    assert ("key.changed", "weekly report", "ends 1 Jan 2020, 00:00 UTC, was 2 Jan 2040, 03:04 UTC") in told_in(cast.acme)  # fmt: skip
    told = told_in(cast.acme)
    assert ended.has_expired
    assert change("weekly report", "", "").expiry_date == ended.expiry_date
    assert told_in(cast.acme) == told


def test_what_was_read_whole_is_listed_with_the_rest(staff: Client, rows: Any) -> None:
    with across_tenants("a test prepares"):
        Coverage.objects.update(ranges=[Range(None, datetime(2026, 11, 1, tzinfo=UTC))])
    assert "the beginning to 01 Nov 2026" in staff.get(path(Coverage)).content.decode()


def test_the_admins_form_has_the_limits_of_the_sites(cast: SimpleNamespace) -> None:
    User.objects.create_superuser("root@atom.test", "root")
    cache.clear()
    client = Client()
    wrong = {"username": "root@atom.test", "password": "no"}
    for _ in range(SIGN_IN["pair"]):
        assert client.post("/admin/login/", wrong).status_code == 200
    assert client.post("/admin/login/", wrong | {"password": "root"}).status_code == 429
    wide = {"username": "\uff52oot@atom.test", "password": "root"}  # which Django's form reads as "root"
    assert client.post("/admin/login/", wide).status_code == 429
    assert client.post("/sign-in", {"email": "root@atom.test", "password": "root"}).status_code == 429, "the same tries"
    cache.clear()
    reply = client.post("/admin/login/?next=/admin/", wrong | {"password": "root"})
    assert (reply.status_code, reply["Location"]) == (302, "/admin/")


@pytest.mark.django_db(transaction=True)  # the database refuses some of it
@pytest.mark.parametrize(
    "address",
    [
        "historical_sync/historicalsyncjob/?status__exact=%00",
        "historical_sync/syncchunk/?stream=%00",
        "historical_sync/historicalsyncjob/?created_at__year=99999999999999999999",
        "atom/user/?date_joined__year=-1",
        "procrastinate/procrastinatejob/?status__exact=unheard-of",
        "atom/apikey/%00/change/",
        "autocomplete/?app_label=atom&model_name=membership&field_name=user&term=%00",
        "r/{tenant_type}/x/",
    ],
)
def test_what_no_column_can_hold_is_a_bad_request(
    live_cast: SimpleNamespace, signed_in: Any, caplog: Any, address: str
) -> None:
    client = signed_in(User.objects.create_superuser("root@atom.test", "root"))
    page = client.get(f"/admin/{address}".format(tenant_type=ContentType.objects.get_for_model(Tenant).pk))
    assert page.status_code == 400
    assert "The request could not be understood." in page.content.decode()
    assert "direct cause of the following exception" in caplog.text, "it may be a bug all the same"


def test_a_bug_in_what_is_posted_is_hidden_by_nothing(staff: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any) -> None:
        raise ValueError("a bug")

    monkeypatch.setattr("atom.audit.record", broken)
    staff.raise_request_exception = False
    form = {"tenant": Tenant.objects.get(slug="acme").pk, "role": "viewer", "name": "report"}
    assert staff.post(path(ApiKey, "add"), form).status_code == 500


def test_staff_change_their_password_on_the_sites_page(staff: Client) -> None:
    assert 'href="/admin/password_change/"' in staff.get("/admin/").content.decode()
    page = staff.get("/admin/password_change/", follow=True)
    assert (page.redirect_chain, page.status_code) == ([("/password", 302)], 200)
    form = {"old_password": "root", "new_password1": "a long secret here", "new_password2": "a long secret here"}
    assert staff.post("/admin/password_change/", form)["Location"] == "/password"
    assert User.objects.get(email="root@atom.test").check_password("root")


def test_people_are_added_by_email(staff: Client) -> None:
    form = {"email": "New@Acme.test", "name": "New", "usable_password": "true", "password1": "a long secret here", "password2": "a long secret here"}  # fmt: skip
    assert staff.post(path(User, "add"), form).status_code == 302
    assert User.objects.get(email="new@acme.test").check_password("a long secret here")
    again = staff.post(path(User, "add"), form)
    assert again.status_code == 200
    assert "already exists" in again.content.decode()


def test_where_there_are_no_passwords_the_admin_offers_none(
    staff: Client, cast: SimpleNamespace, settings: Any
) -> None:
    settings.PASSWORDS = False
    shown = staff.get(path(User, cast.bob.pk, "change")).content.decode()
    adding = staff.get(path(User, "add")).content.decode()
    assert "bob@acme.test" in shown
    for page in (shown, adding):
        assert "assword" not in page.replace("unusable_password_field", "")  # files that Django's template names
    new = {"usable_password": "true", "password1": "a long secret here", "password2": "a long secret here", "set-password": "1"}  # fmt: skip
    assert staff.get(path(User, cast.bob.pk, "password")).status_code == 404
    assert staff.post(path(User, cast.bob.pk, "password"), new).status_code == 404
    assert User.objects.get(pk=cast.bob.pk).check_password("bob")
    assert staff.post(path(User, "add"), {"email": "New@Acme.test", "name": "New", **new}).status_code == 302
    made = User.objects.get(email="new@acme.test")
    assert not made.has_usable_password()
    form = {"email": "newer@acme.test", "name": "New", "is_active": "on"}
    assert staff.post(path(User, made.pk, "change"), form).status_code == 302
    assert User.objects.get(pk=made.pk).email == "newer@acme.test"
    assert not User.objects.get(pk=made.pk).has_usable_password()


def test_a_webhooks_address_is_shown_without_the_key_in_its_query(staff: Client, cast: SimpleNamespace) -> None:
    with tenant_scope(cast.acme.id):
        endpoint, _ = webhooks.add(system_actor(cast.acme, "Alice"), "https://1.1.1.1/told?key=a-key", ["completed"])
        job = make_job(make_connection(cast.acme))
        notice = Notice.objects.create(tenant=cast.acme, job=job, revision=1, event="completed", snapshot={})
        delivery = Delivery.objects.create(tenant=cast.acme, notice=notice, endpoint=endpoint)
    for address in (
        path(WebhookEndpoint), path(WebhookEndpoint, endpoint.pk, "change"), path(WebhookEndpoint, endpoint.pk, "history"),
        path(Delivery), path(Delivery, delivery.pk, "change"),
    ):  # fmt: skip
        page = staff.get(address)
        assert page.status_code == 200
        assert "https://1.1.1.1/told" in page.content.decode()
        assert "a-key" not in page.content.decode()


def test_no_model_of_ours_that_holds_a_secret_is_shown_with_it() -> None:
    from django.db.models import BinaryField

    for model, shown in admin.site._registry.items():
        sealed = {field.name for field in model._meta.get_fields() if isinstance(field, BinaryField)}
        listed = {str(name) for name in (*shown.list_display, *(shown.fields or ()), *shown.readonly_fields)}
        assert not sealed & listed, model
