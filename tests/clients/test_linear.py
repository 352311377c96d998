"""graphql-core, the reference implementation in Python, against Linear's stand-in: documents, answers, and what is refused.

The schema is the part of Linear's that the documents touch; types and nullability as its SDK declares them.
"""

from __future__ import annotations

from typing import Any

import graphql
import httpx2
import pytest

from integrations.providers.linear import FIELDS, PAGE_SIZES, WHO, document
from integrations.sandbox.linear import ARGUMENTS, NAMED
from integrations.sandbox.linear_rows import SCHEMA

TIMES = "id: ID! createdAt: DateTime! updatedAt: DateTime! archivedAt: DateTime"
CONNECTIONS = {
    "teams": "Team", "users": "User", "projects": "Project", "cycles": "Cycle", "issues": "Issue", "comments": "Comment",
    "attachments": "Attachment", "issueRelations": "IssueRelation",
}  # fmt: skip
UNFILTERED = ("issueRelations",)
ARCHIVED = {"Issue": " archivedAt: DateComparator"}
PAGING = "first: Int last: Int after: String before: String orderBy: PaginationOrderBy includeArchived: Boolean"
SDL = f"""
scalar DateTime
scalar TimelessDate
enum PaginationOrderBy {{ createdAt updatedAt }}
input DateComparator {{ eq: DateTime neq: DateTime gt: DateTime gte: DateTime lt: DateTime lte: DateTime }}
type PageInfo {{ hasNextPage: Boolean! hasPreviousPage: Boolean! startCursor: String endCursor: String }}
type Organization {{ id: ID! urlKey: String! name: String! }}
type User {{ {
    TIMES
} name: String! displayName: String! email: String! app: Boolean! active: Boolean! admin: Boolean! guest: Boolean! url: String! }}
type ExternalUser {{ {TIMES} name: String! displayName: String! email: String }}
type ActorBot {{ id: ID type: String! subType: String name: String userDisplayName: String }}
type Team {{ {TIMES} key: String! name: String! description: String private: Boolean! }}
type WorkflowState {{ id: ID! name: String! type: String! }}
type ProjectStatus {{ id: ID! name: String! type: String! }}
type IssueLabel {{ id: ID! name: String! }}
type IssueLabelConnection {{ nodes: [IssueLabel!]! pageInfo: PageInfo! }}
type Project {{ {TIMES} name: String! description: String! url: String! progress: Float! startDate: TimelessDate
  targetDate: TimelessDate trashed: Boolean status: ProjectStatus! lead: User teams(first: Int after: String): TeamConnection! }}
type Cycle {{ {
    TIMES
} number: Float! name: String description: String startsAt: DateTime! endsAt: DateTime! completedAt: DateTime
  team: Team! }}
type Issue {{ {
    TIMES
} identifier: String! previousIdentifiers: [String!]! number: Float! title: String! description: String url: String! priority: Float!
  priorityLabel: String! estimate: Float dueDate: TimelessDate trashed: Boolean startedAt: DateTime completedAt: DateTime
  canceledAt: DateTime state: WorkflowState! team: Team! assignee: User creator: User
  externalUserCreator: ExternalUser botActor: ActorBot project: Project cycle: Cycle parent: Issue
  labels(first: Int after: String): IssueLabelConnection! }}
type Comment {{ {TIMES} body: String! url: String! editedAt: DateTime issue: Issue user: User
  externalUser: ExternalUser botActor: ActorBot parent: Comment }}
type IssueRelation {{ {TIMES} type: String! issue: Issue! relatedIssue: Issue! }}
type Attachment {{ {TIMES} title: String! subtitle: String url: String! sourceType: String issue: Issue! creator: User
  externalUserCreator: ExternalUser }}
{" ".join(f"type {kind}Connection {{ nodes: [{kind}!]! pageInfo: PageInfo! }}" for kind in CONNECTIONS.values())}
{
    " ".join(
        f"input {kind}Filter {{ updatedAt: DateComparator createdAt: DateComparator{ARCHIVED.get(kind, str())} }}"
        for kind in CONNECTIONS.values()
    )
}
type Query {{
  organization: Organization!
  viewer: User!
  {
    " ".join(
        f"{name}({'' if name in UNFILTERED else f'filter: {kind}Filter '}{PAGING}"
        f"{' includeDisabled: Boolean' if name == 'users' else ''}): {kind}Connection!"
        for name, kind in CONNECTIONS.items()
    )
}
}}
"""


@pytest.fixture(scope="module")
def schema() -> graphql.GraphQLSchema:
    return graphql.build_schema(SDL)


class Linear:
    def __init__(self, sandbox: Any) -> None:
        self.url = f"{sandbox.root}/linear/graphql"

    def __call__(self, query: str, key: str = "lin_api_sandbox", **variables: Any) -> httpx2.Response:
        return httpx2.post(self.url, json={"query": query, "variables": variables}, headers={"Authorization": key})


@pytest.fixture
def linear(sandbox: Any) -> Linear:
    return Linear(sandbox)


@pytest.mark.parametrize("text", [WHO, *map(document, FIELDS)])
def test_the_providers_documents_are_valid(schema: graphql.GraphQLSchema, text: str):
    assert graphql.validate(schema, graphql.parse(text)) == []


def test_the_stand_in_has_no_field_or_argument_that_the_schema_lacks(schema: graphql.GraphQLSchema):
    for kind, name in CONNECTIONS.items():
        fields = graphql.assert_object_type(schema.type_map[name]).fields
        assert set(SCHEMA[name]) <= set(fields)
        connection = graphql.assert_object_type(schema.type_map["Query"]).fields[kind]
        assert set(connection.args) >= ARGUMENTS - ({"filter"} if kind in UNFILTERED else set())


@pytest.mark.parametrize("name", FIELDS)
def test_an_answer_is_what_the_reference_makes_of_the_same_rows(
    schema: graphql.GraphQLSchema, linear: Linear, name: str
):
    """The answer, as rows to choose from, comes out of graphql-core unchanged: same fields, same order, types and nulls as declared."""
    variables = {"first": min(PAGE_SIZES.get(name, 100), 20)}
    answer = linear(document(name), **variables).json()
    assert "errors" not in answer
    assert answer["data"][name]["nodes"]
    again = graphql.graphql_sync(schema, document(name), root_value=answer["data"], variable_values=variables)
    assert again.errors is None
    assert again.data == answer["data"]


@pytest.mark.parametrize("name", FIELDS)
def test_all_pages_make_the_whole_newest_first(linear: Linear, sandbox: Any, name: str):
    """What is read by time by its update, and what is read whole by its making."""
    rows: list[Any] = []
    after = None
    while True:
        found = linear(document(name), first=7, after=after).json()["data"][name]
        rows += found["nodes"]
        if not found["pageInfo"]["hasNextPage"]:
            break
        after = found["pageInfo"]["endCursor"]
    assert len({row["id"] for row in rows}) == len(rows) == sandbox.truth("linear")[NAMED.get(name, name)]
    times = [row["createdAt" if "orderBy: createdAt" in document(name) else "updatedAt"] for row in rows]
    assert times == sorted(times, reverse=True)


def test_archived_rows_and_disabled_people_are_hidden_unless_they_are_asked_for(linear: Linear):
    every = linear("{ issues(first: 250, includeArchived: true) { nodes { id archivedAt } } }").json()["data"][
        "issues"
    ]["nodes"]
    shown = linear("{ issues(first: 250) { nodes { id archivedAt } } }").json()["data"]["issues"]["nodes"]
    assert 0 < len(shown) < len(every)
    assert {row["id"] for row in shown} == {row["id"] for row in every if row["archivedAt"] is None}
    active, all_people = (
        linear(f"{{ users{more} {{ nodes {{ active }} }} }}").json()["data"]["users"]["nodes"]
        for more in ("", "(includeDisabled: true)")
    )
    assert len(active) < len(all_people)
    assert all(row["active"] for row in active)


def test_a_window_takes_its_beginning_in_and_leaves_its_end_out(linear: Linear):
    rows = linear(document("issues"), first=10).json()["data"]["issues"]["nodes"]
    newest, oldest = rows[2]["updatedAt"], rows[7]["updatedAt"]
    span = {"updatedAt": {"gte": oldest, "lt": newest}}
    found = linear(document("issues"), first=50, filter=span).json()["data"]["issues"]["nodes"]
    assert [row["id"] for row in found] == [row["id"] for row in rows[3:8]]


@pytest.mark.parametrize(
    "query",
    [
        "{ issues { nodes { id nonsense } } }",
        "{ issues { nodes } }",
        "{ issues(nonsense: 1) { nodes { id } } }",
        "query Q($first: Int!) { issues(first: $first) { nodes { id } } }",
        "{ issues(first: $first) { nodes { id } } }",
        "{ issues(filter: { nonsense: { eq: 1 } }) { nodes { id } } }",
        "{ issues { nodes { id } }",
    ],
)
def test_what_the_reference_refuses_is_refused(schema: graphql.GraphQLSchema, linear: Linear, query: str):
    try:
        wrong = bool(graphql.validate(schema, graphql.parse(query)))
    except graphql.GraphQLError:
        wrong = True
    assert wrong or graphql.graphql_sync(schema, query).errors
    answer = linear(query)
    assert answer.status_code == 400
    assert answer.json()["errors"][0]["extensions"]["code"] == "GRAPHQL_VALIDATION_FAILED"


def test_a_query_that_costs_too_much_is_refused_and_the_providers_do_not(linear: Linear):
    dear = "{ issues(first: 250) { nodes { labels { nodes { id name } } } } }"
    assert linear(dear).json()["errors"][0]["extensions"]["code"] == "INPUT_ERROR"
    costs = {
        name: int(linear(document(name), first=PAGE_SIZES.get(name, 100)).headers["X-Complexity"]) for name in FIELDS
    }
    assert all(cost < 5000 for cost in costs.values()), costs


def test_a_key_goes_without_a_scheme_a_token_with_one(linear: Linear):
    assert linear(WHO).json()["data"]["organization"]["urlKey"] == "northwind"
    for wrong in ("Bearer lin_api_sandbox", "lin_oauth_made-up", "Bearer lin_oauth_made-up", ""):
        answer = linear(WHO, wrong)
        assert answer.status_code == 401
        assert answer.json()["errors"][0]["extensions"]["code"] == "AUTHENTICATION_ERROR"
