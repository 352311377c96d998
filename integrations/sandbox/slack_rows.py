"""What a Slack workspace of the sandbox holds: rows by place in time, made when they are asked for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from integrations.sandbox.world import DAYS, Person, World

# team id -> name; the last is empty.
ACCOUNTS = {"T0SBNORTH": "Northwind Traders", "T0SBCONTO": "Contoso", "T0SBEMPTY": "Empty Workspace"}
DOMAINS = {"T0SBNORTH": "northwind", "T0SBCONTO": "contoso", "T0SBEMPTY": "empty-workspace"}
MESSAGES, FILES = 0.8, 0.05  # shares of the account's records; replies come on top
BUSY = 0.04  # of the messages have a thread
STAFF, GUESTS = 14, 6
BOT = "B0SBDEPLOY"
CHANNELS = (
    # name, share of the messages, private, archived, topic
    ("general", 0.3, False, False, "Company-wide announcements"),
    ("engineering", 0.25, False, False, "Builds & breakage"),
    ("support", 0.2, False, False, "Customers first"),
    ("büro-kaffee", 0.1, False, False, ""),
    ("leadership", 0.1, True, False, "Numbers"),
    ("launch-2025", 0.05, False, True, ""),
)
TEXTS = (
    "Shipping the fix now, <@{user}>",
    "Can somebody look at <https://status.example.test/incidents?id=7&amp;view=all|the incident>?",
    "Thanks! :tada:",
    "The customer writes from <mailto:{email}|{email}>, who takes it?",
    "Moved to <#{channel}|{channel_name}>",
    "Прошу проверить счёт до пятницы",
    "Numbers are in &lt;the sheet&gt; &amp; look good",
    "<!here> stand-up in 5 minutes\nBring coffee ☕",
    "",
)


@dataclass(frozen=True)
class Reply:
    """A reply: when (Unix microseconds), to which message's place, which of its thread."""

    at: int
    parent: int
    number: int


def ts(micros: int) -> str:
    return f"{micros // 10**6}.{micros % 10**6:06d}"


class Workspace:
    """One workspace. A message's place is its place in time over all channels; its ts is unique there."""

    def __init__(self, world: World, account: str, *, empty: bool) -> None:
        self.world, self.account, self.empty = world, account, empty
        self.number = list(ACCOUNTS).index(account)
        self.url = f"https://{DOMAINS[account]}.slack.com/"
        self.began = int(world.now.timestamp()) - (DAYS + 30) * 86_400

    # -- people and channels ------------------------------------------------------------------------------------------------

    @cached_property
    def cast(self) -> list[Person]:
        people = self.world.people()
        return [] if self.empty else people[:STAFF] + people[-GUESTS:]

    def user_id(self, person: int) -> str:
        return f"U0SB{self.number}{person:04d}"

    def channel_id(self, channel: int) -> str:
        return f"C0SB{self.number}{channel:04d}"

    @property
    def channels(self) -> range:
        return range(0 if self.empty else len(CHANNELS))

    @property
    def users(self) -> range:
        """The people, and a bot last."""
        return range(0 if self.empty else len(self.cast) + 1)

    def members(self, channel: int) -> list[str]:
        """Everybody is in #general; elsewhere about half of the staff."""
        chosen = [
            i for i in range(len(self.cast)) if channel == 0 or (i < STAFF and self._chance("in", channel, i) < 0.5)
        ]
        return [self.user_id(self.cast[i].index) for i in chosen or [0]]

    def user(self, place: int, deleted: bool) -> dict[str, Any]:
        profile: dict[str, Any]
        if place == len(self.cast):
            profile = {
                "real_name": "Deploy Bot",
                "display_name": "",
                "bot_id": BOT,
                "api_app_id": "A0SBDEPLOY",
                "title": "",
            }
            row = {"id": f"U0SB{self.number}BOT", "name": "deploybot", "is_bot": True, "is_email_confirmed": False}
        else:
            person = self.cast[place]
            profile = {"real_name": person.name, "display_name": person.login, "title": "Engineer" if place % 3 else "",
                       "phone": f"+49 170 {place:07d}", "skype": person.login, "email": person.email, "status_text": "At the dentist's", "image_24": None,
                       "pronouns": "they", "start_date": "2024-02-01", "fields": {"Xf01": {"value": "1990-05-01", "alt": ""}}}  # fmt: skip
            row = {"id": self.user_id(person.index), "name": person.login, "is_bot": False, "is_email_confirmed": True,
                   "tz": "Europe/Berlin", "is_admin": place == 0, "is_restricted": place >= STAFF}  # fmt: skip
        return {**row, "team_id": self.account, "deleted": deleted, "real_name": profile["real_name"], "profile": profile,
                "updated": self.began + place * 3600}  # fmt: skip

    def channel(self, place: int, archived: bool) -> dict[str, Any]:
        name, _, private, closed, topic = CHANNELS[place]
        created = self.began + place * 60
        return {
            "id": self.channel_id(place), "name": name, "name_normalized": name, "created": created, "creator": self.user_id(0),
            "is_channel": True, "is_group": False, "is_im": False, "is_mpim": False, "is_private": private, "is_archived": archived or closed,
            "is_general": place == 0, "is_shared": False, "is_ext_shared": False, "is_org_shared": False, "is_member": place != 3,
            "updated": (created + 7200) * 1000, "context_team_id": self.account, "parent_conversation": None, "unlinked": 0,
            "topic": {"value": topic, "creator": "", "last_set": 0}, "purpose": {"value": "", "creator": "", "last_set": 0},
            "previous_names": [], "num_members": len(self.members(place)),
        }  # fmt: skip

    # -- messages -----------------------------------------------------------------------------------------------------------

    def _chance(self, *about: object) -> float:
        return self.world.chance("slack", self.account, *about)

    def _count(self, share: float) -> int:
        return 0 if self.empty else max(1, round(self.world.records * share))

    @cached_property
    def messages(self) -> list[int]:
        """When each was sent, in Unix microseconds, ascending; no two at once."""
        times = self.world.times(self._count(MESSAGES), "slack", self.account)
        return [seconds * 10**6 + place % 10**6 for place, seconds in enumerate(times)]

    @cached_property
    def places(self) -> dict[int, list[int]]:
        """channel -> places of its messages, ascending."""
        found: dict[int, list[int]] = {channel: [] for channel in self.channels}
        for place in range(len(self.messages)):
            found[self.channel_of(place)].append(place)
        return found

    def channel_of(self, place: int) -> int:
        left = self._chance("where", place)
        for channel, (_, share, *_) in enumerate(CHANNELS):
            left -= share
            if left < 0:
                return channel
        return 0

    @cached_property
    def replies(self) -> list[Reply]:
        """All replies, by time."""
        end = int(self.world.now.timestamp()) * 10**6 - 1
        found = []
        for place in range(len(self.messages)):
            for number in range(int(self._chance("replies", place) * 4) + 1 if self.is_parent(place) else 0):
                after = int(self._chance("later", place, number) ** 3 * 5 * 86_400 * 10**6) + 10**6
                found.append(Reply(min(self.messages[place] + after, end - number), place, number))
        return sorted(found, key=lambda reply: (reply.at, reply.parent))

    @cached_property
    def threads(self) -> dict[int, list[int]]:
        """A parent's place -> places of its replies among all replies, by time."""
        found: dict[int, list[int]] = {}
        for place, reply in enumerate(self.replies):
            found.setdefault(reply.parent, []).append(place)
        return found

    def is_parent(self, place: int) -> bool:
        return self._chance("thread", place) < BUSY or place == 1

    def message(self, place: int, *, deleted: bool = False) -> dict[str, Any]:
        """deleted: what stays of a thread whose first message was deleted."""
        at = ts(self.messages[place])
        thread: dict[str, Any] = {}
        if place in self.threads:
            replies = [self.replies[i] for i in self.threads[place]]
            thread = {"thread_ts": at, "reply_count": len(replies), "reply_users_count": 1, "latest_reply": ts(replies[-1].at),
                      "is_locked": False, "subscribed": False}  # fmt: skip
        if deleted:
            return {"type": "message", "subtype": "tombstone", "user": "USLACKBOT", "text": "This message was deleted.",
                    "hidden": True, "ts": at, **thread}  # fmt: skip
        return {**self._said(("message", place), self.channel_of(place), at), **thread}

    def reply(self, place: int) -> dict[str, Any]:
        reply = self.replies[place]
        row = self._said(("reply", reply.parent, reply.number), self.channel_of(reply.parent), ts(reply.at))
        return {**row, "thread_ts": ts(self.messages[reply.parent]), "parent_user_id": self.user_id(0)}

    def _said(self, about: tuple[object, ...], channel: int, at: str) -> dict[str, Any]:
        kind, who = self._chance("kind", *about), self.cast[int(self._chance("who", *about) * STAFF)]
        row: dict[str, Any] = {"type": "message", "ts": at, "team": self.account, "client_msg_id": None}
        if kind < 0.03 and about[0] == "message":
            return {"type": "message", "subtype": "channel_join", "ts": at, "user": self.user_id(who.index),
                    "text": f"<@{self.user_id(who.index)}> has joined the channel"}  # fmt: skip
        if kind < 0.05:  # apps of today post as a user of their own
            return {**row, "user": f"U0SB{self.number}BOT", "bot_id": BOT, "app_id": "A0SBDEPLOY", "text": "Deployed",
                    "bot_profile": {"id": BOT, "app_id": "A0SBDEPLOY", "name": "Deploy Bot", "deleted": False}}  # fmt: skip
        if kind < 0.1:
            return {"type": "message", "subtype": "bot_message", "ts": at, "bot_id": BOT, "username": "Deploy Bot", "user": None,
                    "text": "Deployed <https://ci.example.test/7|build 7> &gt; production"}  # fmt: skip
        other = self.world.people()[int(self._chance("other", *about) * 40)]
        target = int(self._chance("target", *about) * len(CHANNELS))
        text = TEXTS[int(self._chance("text", *about) * len(TEXTS))].format(
            user=self.user_id(self.cast[int(self._chance("asked", *about) * STAFF)].index), email=other.email,
            channel=self.channel_id(target), channel_name=CHANNELS[target][0],
        )  # fmt: skip
        row |= {"user": self.user_id(who.index), "text": text, "blocks": []}
        if kind > 0.95:
            row["edited"] = {"user": row["user"], "ts": ts(int(float(at)) * 10**6 + 90 * 10**6)}
        if 0.9 < kind < 0.95 and self.files:
            row["files"] = [self.file(int(self._chance("file", *about) * len(self.files)))]
        return row

    # -- files --------------------------------------------------------------------------------------------------------------

    @cached_property
    def files(self) -> list[int]:
        """When each was uploaded, in Unix seconds, ascending."""
        return self.world.times(self._count(FILES), "slack", self.account, "files")

    def file_id(self, place: int) -> str:
        return f"F0SB{self.number}{place:06d}"

    def file(self, place: int) -> dict[str, Any]:
        who = self.cast[int(self._chance("uploader", place) * STAFF)]
        name = ("Quarterly plan.pdf", "Screenshot 1.png", "Übersicht.xlsx")[place % 3]
        kind = ("application/pdf", "image/png", "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet")[
            place % 3
        ]
        return {
            "id": self.file_id(place), "created": self.files[place], "timestamp": self.files[place], "name": name, "title": name,
            "mimetype": kind, "filetype": name.rpartition(".")[2], "user": self.user_id(who.index), "user_team": self.account,
            "size": 1000 + place, "mode": "hosted", "is_external": False, "is_public": True, "permalink": f"{self.url}files/{self.file_id(place)}",
            "channels": [self.channel_id(int(self._chance("shared", place) * 3))], "groups": [], "ims": [],
        }  # fmt: skip
