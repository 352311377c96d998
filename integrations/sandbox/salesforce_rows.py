"""What a Salesforce organization of the sandbox holds: rows by table and index, made when they are asked for."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from random import Random
from typing import Any

from integrations.sandbox.soql import Table
from integrations.sandbox.world import COMPANIES, COMPANY_ENDS, COMPANY_WORDS, FIRST, LAST, PLAIN, World

ACCOUNTS = {
    "00Dsb0000000001AAA": "Northwind Traders",
    "00Dsb0000000002AAA": "Contoso",
    "00Dsb0000000003AAA": "Brand New",
}
SHARES = {
    "Account": 0.08,
    "Contact": 0.2,
    "Lead": 0.08,
    "Opportunity": 0.13,
    "OpportunityContactRole": 0.08,
    "Case": 0.15,
    "Task": 0.2,
    "Event": 0.08,
}
USERS = 14  # of the people whom all tools know, and one that is nobody
IDS = {
    "User": "005",
    "Account": "001",
    "Contact": "003",
    "Lead": "00Q",
    "Opportunity": "006",
    "OpportunityContactRole": "00K",
    "Case": "500",
    "Task": "00T",
    "Event": "00U",
}
# What is deleted leaves no row of these, not even a marked one; a role's mark means that its deal was deleted.
UNMARKED = ("User", "OpportunityContactRole")
_STAMPS = ("Id", "CreatedDate", "LastModifiedDate", "SystemModstamp")
_COMMON = (*_STAMPS, "IsDeleted", "OwnerId")
_PERSON, _COMPANY = ("Name", "Email"), ("Name", "Website", "IsPersonAccount")
_OWNER = {"Owner": _PERSON}
_ACTIVITY = (*_COMMON, "Subject", "Description", "ActivityDate", "WhoId", "WhatId")
_ABOUT = {"Who": _PERSON, "What": ("Name",), **_OWNER}
QUEUE = "First line"
TABLES = {
    table.name.lower(): table
    for table in (
        Table("User", (*_STAMPS, "Name", "Email", "Username", "Title", "Department", "IsActive", "UserType"), {}),
        Table(
            "Account",
            (
                *_COMMON,
                "Name",
                "Website",
                "Industry",
                "Phone",
                "ParentId",
                "MasterRecordId",
                "IsPersonAccount",
                "PersonContactId",
                "PersonEmail",
            ),
            {"Parent": ("Name",), **_OWNER},
        ),
        Table(
            "Contact",
            (
                *_COMMON,
                "FirstName",
                "LastName",
                "Name",
                "Email",
                "Phone",
                "Title",
                "AccountId",
                "MasterRecordId",
                "IsPersonAccount",
            ),
            {"Account": _COMPANY, **_OWNER},
        ),
        Table(
            "Lead",
            (
                *_COMMON,
                "FirstName",
                "LastName",
                "Name",
                "Company",
                "Email",
                "Phone",
                "Title",
                "Website",
                "Status",
                "LeadSource",
                "IsConverted",
                "ConvertedDate",
                "ConvertedAccountId",
                "ConvertedContactId",
                "ConvertedOpportunityId",
                "MasterRecordId",
            ),
            _OWNER,
        ),
        Table(
            "Opportunity",
            (
                *_COMMON,
                "Name",
                "Amount",
                "CurrencyIsoCode",
                "StageName",
                "CloseDate",
                "IsWon",
                "IsClosed",
                "Description",
                "AccountId",
            ),
            {"Account": _COMPANY, **_OWNER},
        ),
        Table(
            "OpportunityContactRole",
            (*_STAMPS, "IsDeleted", "OpportunityId", "ContactId", "Role", "IsPrimary"),
            {"Opportunity": ("Name",), "Contact": _PERSON},
        ),
        Table(
            "Case",
            (
                *_COMMON,
                "CaseNumber",
                "Subject",
                "Description",
                "Status",
                "Priority",
                "IsClosed",
                "AccountId",
                "ContactId",
                "MasterRecordId",
            ),
            {"Account": _COMPANY, "Contact": _PERSON, **_OWNER},
        ),
        Table("Task", (*_ACTIVITY, "Status", "Priority"), _ABOUT),
        Table("Event", (*_ACTIVITY, "Location", "StartDateTime", "EndDateTime", "IsAllDayEvent", "IsChild"), _ABOUT),
    )
}
STAGES = ("Prospecting", "Qualification", "Proposal/Price Quote", "Negotiation/Review", "Closed Won", "Closed Lost")
SUBJECTS = (
    "Invoice shows the wrong total",
    "Can't sign in since Monday",
    "How do we export orders?",
    "Shipment is late",
    "Feature request: bulk edit",
    "Ошибка при оплате",
)
PARTS = ("Decision Maker", "Economic Buyer", "Evaluator", "Influencer", None)
SOURCES = ("Web", "Trade show", "Referral", None)
MEETINGS = ("Demo", "Kick-off", "Quarterly review", "Besuch in Köln", None)
ERRANDS = ("Call", "Send quote", "Demo", "Follow up", "Prepare contract", "Visit")
INDUSTRIES = ("Retail", "Energy", "Healthcare", "Media", "Manufacturing", None)


def _time(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.000+0000")


def _date(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).date().isoformat()


class Organization:
    """Rows of a table lie by SystemModstamp and, as ids count with it, by Id."""

    def __init__(self, world: World, account: str, *, empty: bool = False) -> None:
        self.world, self.account, self.empty = world, account, empty
        self._times: dict[str, list[int]] = {}

    def _id(self, prefix: str, index: int) -> str:
        """18 characters, no two organizations share one."""
        return f"{prefix}sb{list(ACCOUNTS).index(self.account)}{index:09d}AAA"

    def id_of(self, table: str, index: int) -> str:
        return self._id(IDS[table], index)

    def count(self, table: str) -> int:
        if table == "User":
            return 0 if self.empty else USERS + 1
        return 0 if self.empty else max(1, round(self.world.records * SHARES[table]))

    def modified(self, table: str) -> list[int]:
        """When each row of the table changed last, ascending."""
        if table not in self._times:
            self._times[table] = self.world.times(self.count(table), self.account, table)
        return self._times[table]

    def is_deleted(self, table: str, index: int) -> bool:
        if table == "OpportunityContactRole":
            return self.is_deleted("Opportunity", self._deal_of_role(index))
        return table != "User" and self.world.chance(self.account, table, "deleted", index) < 0.01

    def row(self, table: str, index: int) -> dict[str, Any]:
        make: Callable[[int, int, Random], dict[str, Any]] = getattr(self, f"_{table.lower()}")
        modified = self.modified(table)[index]
        rng = self.world.rng(self.account, table, index)
        return {
            "Id": self._id(IDS[table], index),
            "CreatedDate": _time(modified - int(rng.random() ** 2 * 90 * 86_400)),
            "LastModifiedDate": _time(modified),
            "SystemModstamp": _time(modified),
            "IsDeleted": self.is_deleted(table, index),
            **self._owner(table, index),
            **make(index, modified, rng),
        }

    # -- parents ------------------------------------------------------------------------------------------------------------

    def _owner(self, table: str, index: int) -> dict[str, Any]:
        """A user, or the queue in which a case or lead waits for one."""
        if table in ("Case", "Lead") and self.world.chance("queue", index) < 0.15:
            return {"OwnerId": self._id("00G", 1), "Owner": {"Name": QUEUE, "Email": None}}
        person = self.world.people()[int(self.world.chance("owner", index) * 12)]
        return {"OwnerId": self._id("005", person.index), "Owner": {"Name": person.name, "Email": person.email}}

    def _is_person(self, account: int) -> bool:
        """Whether the customer is a person: an account and a contact in one."""
        return account >= len(COMPANIES) and account % 7 == 0

    def _half(self, index: int) -> int:
        """The contact that is the other half of an account which is a person, and the other way round: contacts from the last one on."""
        return self.count("Contact") - 1 - index

    def _company(self, index: int) -> tuple[str, str | None]:
        """(name, web site) of the index-th customer."""
        if self._is_person(index):
            return self._who(self._half(index))[0], None
        if index < len(COMPANIES):
            return COMPANIES[index][0], f"https://www.{COMPANIES[index][1]}"
        rng = self.world.rng(self.account, "company", index)
        name = f"{rng.choice(COMPANY_WORDS)} {rng.choice(COMPANY_ENDS)} {index}"
        return name, None if rng.random() < 0.2 else f"http://{name.lower().replace(' ', '-')}.test"

    def _account_link(self, *about: object) -> dict[str, Any]:
        if self.world.chance("orphan", *about) < 0.05:
            return {"AccountId": None, "Account": None}
        return self._account_at(int(self.world.chance("account", self.account, *about) ** 2 * self.count("Account")))

    def _account_at(self, index: int) -> dict[str, Any]:
        name, website = self._company(index)
        account = {"Name": name, "Website": website, "IsPersonAccount": self._is_person(index)}
        return {"AccountId": self._id("001", index), "Account": account}

    def _who(self, index: int) -> tuple[str, str | None]:
        """(name, e-mail) of the index-th contact; the first ones are the people that other tools know too."""
        people = self.world.people()
        if index < len(people):
            return people[index].name, people[index].email
        rng = self.world.rng(self.account, "contact", index)
        name = f"{rng.choice(FIRST)} {rng.choice(LAST)}"
        plain = name.translate(PLAIN).lower().replace(" ", ".")
        domain = f"{COMPANY_WORDS[index % len(COMPANY_WORDS)].lower()}.test"
        return name, None if rng.random() < 0.1 else f"{plain}.{index}@{domain}"

    def _person_link(self, name: str, parent: str, *about: object) -> dict[str, Any]:
        if self.world.chance("nobody", *about) < 0.1:
            return {name: None, parent: None}
        index = int(self.world.chance("contact", self.account, *about) ** 2 * self.count("Contact"))
        who, email = self._who(index)
        return {name: self._id("003", index), parent: {"Name": who, "Email": email}}

    def _activity(self, table: str, index: int, rng: Random) -> dict[str, Any]:
        """With whom and about what. Of people who are no users, it comes without an address."""
        link = self._person_link("WhoId", "Who", table, index)
        if link["Who"] and rng.random() < 0.2:
            lead = int(rng.random() * self.count("Lead"))
            link = {"WhoId": self._id("00Q", lead), "Who": {"Name": self._lead_who(lead)[0], "Email": None}}
        elif link["Who"]:
            link["Who"]["Email"] = None
        what = int(rng.random() * self.count("Opportunity")) if rng.random() < 0.5 else None
        return {
            "WhatId": None if what is None else self._id("006", what),
            "What": None if what is None else {"Name": self._deal_name(what)},
            **link,
        }

    def _deal_of_role(self, index: int) -> int:
        return index * self.count("Opportunity") // self.count("OpportunityContactRole")

    def _became(self, lead: int) -> int | None:
        """The contact that a lead was converted into."""
        chance = self.world.chance(self.account, "converted", lead)
        return int(chance * self.count("Contact")) if chance < 0.3 else None

    def _lead_who(self, index: int) -> tuple[str, str | None]:
        """(name, e-mail) of the index-th lead."""
        if (contact := self._became(index)) is not None:
            return self._who(contact)
        rng = self.world.rng(self.account, "lead", "who", index)
        name = f"{rng.choice(FIRST)} {rng.choice(LAST)}"
        plain = name.translate(PLAIN).lower().replace(" ", ".")
        return name, None if rng.random() < 0.1 else f"{plain}.{index}@prospect.test"

    def _deal_name(self, index: int) -> str:
        link = self._account_link("opportunity", index)
        company = link["Account"]["Name"] if link["Account"] else "New business"
        kinds = ("renewal", "expansion", "pilot", "first order")
        return f"{company} – {kinds[int(self.world.chance(self.account, 'deal', index) * len(kinds))]}"

    # -- tables -------------------------------------------------------------------------------------------------------------

    def _user(self, index: int, modified: int, rng: Random) -> dict[str, Any]:
        if index >= USERS:
            known = {"Name": "Automated Process", "Email": "autoproc@northwind.test", "UserType": "AutomatedProcess"}
            return known | {"Username": "autoproc", "Title": None, "Department": None, "IsActive": True}
        person = self.world.people()[index]
        return {
            "Name": person.name,
            "Email": person.email,
            "Username": f"{person.email}.{self.account.lower()}",
            "Title": rng.choice(("Account Executive", "Support", None)),
            "Department": rng.choice(("Sales", "Service", None)),
            "IsActive": rng.random() < 0.9,
            "UserType": "Standard",
        }

    def _account(self, index: int, modified: int, rng: Random) -> dict[str, Any]:
        name, website = self._company(index)
        is_person = self._is_person(index)
        parent = int(rng.random() * index) if index > 20 and rng.random() < 0.1 and not is_person else None
        return {
            "Name": name,
            "Website": website,
            "Industry": rng.choice(INDUSTRIES),
            "Phone": f"+49 30 {rng.randrange(10**6, 10**7)}",
            "MasterRecordId": None,
            "IsPersonAccount": is_person,
            "PersonContactId": self._id("003", self._half(index)) if is_person else None,
            "PersonEmail": self._who(self._half(index))[1] if is_person else None,
            "ParentId": None if parent is None else self._id("001", parent),
            "Parent": None if parent is None else {"Name": self._company(parent)[0]},
        }

    def _contact(self, index: int, modified: int, rng: Random) -> dict[str, Any]:
        name, email = self._who(index)
        first, _, last = name.partition(" ")
        account = self._half(index)
        is_person = account < self.count("Account") and self._is_person(account)
        return {
            "IsPersonAccount": is_person,
            "FirstName": first,
            "MasterRecordId": None,
            "LastName": last,
            "Name": name,
            "Email": email,
            "Phone": None if rng.random() < 0.4 else f"+1 555 {rng.randrange(10**6, 10**7)}",
            "Title": rng.choice(("CTO", "Buyer", "Head of Operations", "Engineer", None)),
            **(self._account_at(account) if is_person else self._account_link("contact", index)),
        }

    def _lead(self, index: int, modified: int, rng: Random) -> dict[str, Any]:
        name, email = self._lead_who(index)
        first, _, last = name.partition(" ")
        contact = self._became(index)
        company, website = self._company(int(rng.random() * self.count("Account")))
        deal = int(rng.random() * self.count("Opportunity")) if contact is not None and rng.random() < 0.5 else None
        account = None if contact is None else self._contact(contact, modified, rng)["AccountId"]
        return {
            "FirstName": first,
            "LastName": last,
            "Name": name,
            "Company": company,
            "Email": email,
            "Phone": None if rng.random() < 0.4 else f"+1 555 {rng.randrange(10**6, 10**7)}",
            "Title": rng.choice(("CTO", "Buyer", None)),
            "Website": website,
            "Status": rng.choice(("Open", "Working", "Nurturing")) if contact is None else "Qualified",
            "LeadSource": rng.choice(SOURCES),
            "IsConverted": contact is not None,
            "ConvertedDate": None if contact is None else _date(modified),
            "ConvertedAccountId": account,
            "ConvertedContactId": None if contact is None else self._id("003", contact),
            "ConvertedOpportunityId": None if deal is None else self._id("006", deal),
            "MasterRecordId": None,
        }

    def _opportunity(self, index: int, modified: int, rng: Random) -> dict[str, Any]:
        stage = rng.choice(STAGES)
        return {
            "Name": self._deal_name(index),
            "Amount": None if rng.random() < 0.1 else round(rng.random() ** 3 * 250_000, 2),
            "CurrencyIsoCode": "JPY" if index % 5 == 0 else "EUR",
            "StageName": stage,
            "CloseDate": _date(modified + 20 * 86_400),
            "IsWon": stage == "Closed Won",
            "IsClosed": stage.startswith("Closed"),
            "Description": None if rng.random() < 0.6 else f"Introduced by {self._who(rng.randrange(40))[1]}",
            **self._account_link("opportunity", index),
        }

    def _opportunitycontactrole(self, index: int, modified: int, rng: Random) -> dict[str, Any]:
        deal, contact = self._deal_of_role(index), int(rng.random() * self.count("Contact"))
        name, email = self._who(contact)
        return {
            "OpportunityId": self._id("006", deal),
            "Opportunity": {"Name": self._deal_name(deal)},
            "ContactId": self._id("003", contact),
            "Contact": {"Name": name, "Email": email},
            "Role": rng.choice(PARTS),
            "IsPrimary": rng.random() < 0.5,
        }

    def _case(self, index: int, modified: int, rng: Random) -> dict[str, Any]:
        status = rng.choice(("New", "Working", "Escalated", "Closed", "Closed"))
        return {
            "CaseNumber": f"{index + 1000:08d}",
            "Subject": None if rng.random() < 0.02 else rng.choice(SUBJECTS),
            "Description": None if rng.random() < 0.3 else "As discussed on the phone.\r\nPlease answer soon.",
            "Status": status,
            "Priority": rng.choice(("Low", "Medium", "High")),
            "IsClosed": status == "Closed",
            "MasterRecordId": None,
            **self._account_link("case", index),
            **self._person_link("ContactId", "Contact", "case", index),
        }

    def _task(self, index: int, modified: int, rng: Random) -> dict[str, Any]:
        return {
            "Subject": rng.choice(ERRANDS),
            "Description": None if rng.random() < 0.8 else f"Ask {self._who(rng.randrange(40))[1]} first.",
            "Status": rng.choice(("Not Started", "In Progress", "Completed")),
            "Priority": "Normal",
            "ActivityDate": None if rng.random() < 0.3 else _date(modified),
            **self._activity("task", index, rng),
        }

    def _event(self, index: int, modified: int, rng: Random) -> dict[str, Any]:
        begins = modified - modified % 1800 + int(rng.random() * 14) * 86_400
        return {
            "Subject": rng.choice(MEETINGS),
            "Description": None if rng.random() < 0.7 else f"Bring {self._who(rng.randrange(40))[1]} along.",
            "Location": rng.choice(("Köln", "Video", None)),
            "ActivityDate": _date(begins),
            "StartDateTime": _time(begins),
            "EndDateTime": _time(begins + 3600),
            "IsAllDayEvent": False,
            "IsChild": rng.random() < 0.2,
            **self._activity("event", index, rng),
        }
