"""What a Stripe account of the sandbox holds: rows by resource and place, made when they are asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from integrations.sandbox.world import COMPANIES, COMPANY_ENDS, COMPANY_WORDS, Person, World

JSON = dict[str, Any]
ACCOUNTS = {
    "acct_1SbNorthwind": "Northwind Traders",
    "acct_1SbContoso": "Contoso",
    "acct_1SbBrandNew": "Brand New",
}
VERSION = "2026-10-28.endive"
PREFIXES = {
    "customers": "cus",
    "products": "prod",
    "prices": "price",
    "subscriptions": "sub",
    "invoices": "in",
    "payment_intents": "pi",
    "charges": "ch",
    "refunds": "re",
    "disputes": "du",
    "events": "evt",
}
SHARES = {"customers": 0.2, "products": 0.02, "prices": 0.04, "subscriptions": 0.12, "invoices": 0.2, "events": 0.1}
EVENT_DAYS = 30
INLINE = 10  # lines that come with an invoice
PLANS = ("Starter", "Team", "Über-Plan", "Archive", "Support", "Onboarding", "Données", "Seats")
_CHANGES = (
    ("customer.subscription.updated", "subscriptions"),
    ("invoice.paid", "invoices"),
    ("payment_intent.succeeded", "payment_intents"),
    ("customer.updated", "customers"),
    ("charge.refunded", "charges"),
    ("price.updated", "prices"),
)


class Books:
    """The rows of a resource lie by `created`. Payments belong to invoices, refunds and disputes to charges."""

    def __init__(self, world: World, account: str, *, empty: bool = False) -> None:
        self.world, self.account, self.empty = world, account, empty
        self.number = list(ACCOUNTS).index(account) + 1
        self._times: dict[str, list[int]] = {}

    def id_of(self, resource: str, place: int) -> str:
        return f"{PREFIXES[resource]}_1Sb{self.number}{place:07d}"

    def place_of(self, resource: str, given: str) -> int | None:
        """The place of the row with this id, None if there is none."""
        head = f"{PREFIXES[resource]}_1Sb{self.number}"
        tail = given.removeprefix(head)
        if not given.startswith(head) or len(tail) != 7 or not (tail.isascii() and tail.isdigit()):
            return None
        return int(tail) if int(tail) < len(self.times(resource)) else None

    def times(self, resource: str) -> list[int]:
        """When each row came to be, ascending Unix seconds."""
        if resource not in self._times:
            self._times[resource] = [] if self.empty else self._made(resource)
        return self._times[resource]

    def _made(self, resource: str) -> list[int]:
        end = int(self.world.now.timestamp()) - 1
        if resource in ("payment_intents", "charges"):
            return [min(moment + (60 if resource == "charges" else 58), end) for moment in self.times("invoices")]
        if resource in ("refunds", "disputes"):
            return [min(self.times("charges")[place] + 90_000, end) for place in self._charged(resource)]
        count = max(1, round(self.world.records * SHARES[resource]))
        if resource == "events":
            rng = self.world.rng(self.account, "events")
            return sorted(end - int(rng.random() * EVENT_DAYS * 86_400) for _ in range(count))
        return self.world.times(count, self.account, resource)

    def _charged(self, resource: str) -> range:
        """Places of the charges that were refunded or disputed."""
        return range(3, len(self.times("charges")), 6 if resource == "refunds" else 11)

    def row(self, resource: str, place: int) -> JSON:
        make: Callable[[int], JSON] = getattr(self, f"_{resource}")
        row: JSON = {"id": self.id_of(resource, place), "created": self.times(resource)[place], **make(place)}
        return row if resource == "refunds" else {**row, "livemode": True}

    # -- what belongs to what -----------------------------------------------------------------------------------------------

    def _chance(self, *about: object) -> float:
        return self.world.chance(self.account, *about)

    def _pick(self, resource: str, *about: object) -> str:
        return self.id_of(resource, int(self._chance(resource, *about) * len(self.times(resource))))

    def _person(self, *about: object) -> Person:
        people = self.world.people()
        return people[int(self._chance("person", *about) * len(people))]

    def _subscription_of(self, invoice: int) -> int | None:
        count = len(self.times("subscriptions"))
        return None if self._chance("one-off", invoice) < 0.2 else int(self._chance("of", invoice) * count)

    def _customer_of(self, invoice: int) -> str | None:
        subscription = self._subscription_of(invoice)
        if subscription is not None:
            return self._pick("customers", "subscription", subscription)
        return None if self._is_draft(invoice) else self._pick("customers", "invoice", invoice)

    def _is_draft(self, invoice: int) -> bool:
        return self._chance("draft", invoice) < 0.1

    def _amount(self, place: int) -> JSON:
        currency = ("eur", "usd", "jpy", "kwd")[int(self._chance("currency", place) ** 2 * 4)]
        return {"amount": 500 + int(self._chance("amount", place) * 90_000), "currency": currency}

    # -- rows ---------------------------------------------------------------------------------------------------------------

    def _customers(self, place: int) -> JSON:
        people = self.world.people()
        base: JSON = {"object": "customer", "balance": 0, "currency": "eur", "delinquent": False, "metadata": {}}
        base |= {"address": None, "phone": None, "description": None, "business_name": None, "individual_name": None}
        if place < len(people):
            person = people[place]
            return {**base, "name": person.name, "email": person.email, "individual_name": person.name}
        if place % 4 == 0:
            name, domain = COMPANIES[place // 4 % len(COMPANIES)]
            return {**base, "name": name, "email": f"billing@{domain}", "business_name": name}
        rng = self.world.rng(self.account, "customer", place)
        name = f"{rng.choice(COMPANY_WORDS)} {rng.choice(COMPANY_ENDS)} {place}"
        address = None if rng.random() < 0.15 else f"accounts@{name.lower().replace(' ', '-')}.test"
        note = f"Ask {self._person('note', place).email} before cancelling" if rng.random() < 0.2 else None
        return {**base, "name": None if rng.random() < 0.1 else name, "email": address, "description": note}

    def _products(self, place: int) -> JSON:
        return {
            "object": "product",
            "name": f"{PLANS[place % len(PLANS)]} {place // len(PLANS) + 1}",
            "description": None if place % 2 else "Billed monthly",
            "active": place % 5 != 4,
            "type": "service",
            "url": None,
            "updated": self.times("products")[place] + 60,
            "metadata": {},
        }

    def _product_of(self, price: int) -> str:
        return self._pick("products", "price", price)

    def _prices(self, place: int) -> JSON:
        recurring, tiered = place % 3 != 2, place % 7 == 6
        amount = None if tiered else 500 + int(self._chance("price", place) * 9_000)
        often = {
            "interval": "month",
            "interval_count": 1 + place % 2 * 2,
            "trial_period_days": None,
            "usage_type": "licensed",
        }
        return {
            "object": "price",
            "active": place % 4 != 3,
            "billing_scheme": "tiered" if tiered else "per_unit",
            "currency": ("eur", "usd", "jpy")[place % 3],
            "custom_unit_amount": None,
            "lookup_key": f"plan_{place}" if place % 5 == 0 else None,
            "nickname": f"Früher Vogel {place}" if place % 6 == 5 else None,
            "product": self._product_of(place),
            "recurring": often if recurring else None,
            "tax_behavior": "unspecified",
            "tiers_mode": "graduated" if tiered else None,
            "transform_quantity": None,
            "type": "recurring" if recurring else "one_time",
            "unit_amount": amount,
            "unit_amount_decimal": None if amount is None else str(amount),
            "metadata": {},
        }

    def _subscriptions(self, place: int) -> JSON:
        canceled = self._chance("canceled", place) < 0.25
        created = self.times("subscriptions")[place]
        price = int(self._chance("price", "subscription", place) * len(self.times("prices")))
        item: JSON = {"object": "subscription_item", "id": f"si_1Sb{self.number}{place:05d}", "quantity": 1}
        item["price"] = self.row("prices", price)
        return {
            "object": "subscription",
            "customer": self._pick("customers", "subscription", place),
            "status": "canceled" if canceled else "active",
            "currency": "eur",
            "start_date": created,
            "description": None,
            "cancel_at": None,
            "canceled_at": created + 86_400 if canceled else None,
            "ended_at": created + 86_400 if canceled else None,
            "trial_end": None,
            "items": {"object": "list", "data": [item], "has_more": False, "url": "/v1/subscription_items"},
            "metadata": {},
        }

    def _invoices(self, place: int) -> JSON:
        draft, subscription, created = (
            self._is_draft(place),
            self._subscription_of(place),
            self.times("invoices")[place],
        )
        amount = self._amount(place)
        lines = self.lines_of(place)
        parent = None
        if subscription is not None:
            details = {"subscription": self.id_of("subscriptions", subscription), "metadata": {}}
            parent = {"type": "subscription_details", "quote_details": None, "subscription_details": details}
        own = f"/v1/invoices/{self.id_of('invoices', place)}"
        return {
            "object": "invoice",
            "number": None if draft else f"SB{self.number}-{place:04d}",
            "status": "draft" if draft else "open" if self._chance("open", place) < 0.1 else "paid",
            "customer": self._customer_of(place) or self._pick("customers", "invoice", place),
            "customer_email": None if draft else self._person("invoice", place).email,
            "customer_name": None,
            "total": amount["amount"],
            "currency": amount["currency"],
            "description": None,
            "due_date": None,
            "period_start": created - 86_400 * 30,
            "period_end": created,
            "hosted_invoice_url": None if draft else f"https://invoice.stripe.test/i/{place}",
            "parent": parent,
            "lines": {"object": "list", "data": lines[:INLINE], "has_more": len(lines) > INLINE, "url": f"{own}/lines"},
            "metadata": {},
        }

    def lines_of(self, place: int) -> list[JSON]:
        """What the invoice is for: of many lines it tells the first by itself."""
        found = []
        for at in range(13 if place % 12 == 5 else 1):
            price = int(self._chance("price", "invoice", place, at) * len(self.times("prices")))
            named = {"price": self.id_of("prices", price), "product": self._product_of(price)}
            line: JSON = {
                "object": "line_item",
                "id": f"il_1Sb{self.number}{place:05d}{at:02d}",
                "invoice": self.id_of("invoices", place),
            }
            line |= {"amount": self._amount(place)["amount"] if at == 0 else 0}
            found.append({**line, "pricing": {"type": "price_details", "price_details": named}})
        return found

    def payments_of(self, place: int) -> JSON:
        """The invoice's payments, which come with it when they are asked for."""
        paid = {"type": "payment_intent", "payment_intent": self.id_of("payment_intents", place)}
        entry = {"object": "invoice_payment", "id": f"inpay_1Sb{self.number}{place:05d}", "status": "paid"}
        data = [] if self._is_draft(place) else [{**entry, "invoice": self.id_of("invoices", place), "payment": paid}]
        return {"object": "list", "data": data, "has_more": False, "url": "/v1/invoice_payments"}

    def _payment_intents(self, place: int) -> JSON:
        done = not self._is_draft(place)
        return {
            "object": "payment_intent",
            **self._amount(place),
            "client_secret": f"{self.id_of('payment_intents', place)}_secret_{place:08x}",
            "status": "succeeded" if done else "requires_payment_method",
            "customer": self._customer_of(place),
            "latest_charge": self.id_of("charges", place),
            "description": None if place % 3 else f"Order {place} — danke!",
            "receipt_email": None,
            "canceled_at": None,
            "metadata": {},
        }

    def _charges(self, place: int) -> JSON:
        done, customer = not self._is_draft(place), self._customer_of(place)
        payer = self._person("payer", place)
        address = payer.email if customer is None or place % 2 else None
        return {
            "object": "charge",
            **self._amount(place),
            "amount_refunded": 0,
            "status": "succeeded" if done else "failed",
            "paid": done,
            "refunded": False,
            "disputed": False,
            "failure_message": None if done else "Your card was declined.",
            "customer": customer,
            "payment_intent": self.id_of("payment_intents", place),
            "billing_details": {"email": address, "name": payer.name if address else None, "phone": None},
            "description": None,
            "receipt_email": None,
            "metadata": {"order": str(place)},
        }

    def _refunds(self, place: int) -> JSON:
        charge = self._charged("refunds")[place]
        return {
            "object": "refund",
            **self._amount(charge),
            "status": "succeeded",
            "reason": None if place % 2 else "requested_by_customer",
            "charge": self.id_of("charges", charge),
            "payment_intent": self.id_of("payment_intents", charge),
            "customer": self._customer_of(charge),
            "metadata": {},
        }

    def _disputes(self, place: int) -> JSON:
        charge = self._charged("disputes")[place]
        return {
            "object": "dispute",
            **self._amount(charge),
            "status": ("needs_response", "under_review", "won", "lost")[place % 4],
            "reason": "fraudulent",
            "charge": self.id_of("charges", charge),
            "payment_intent": None if place % 5 == 4 else self.id_of("payment_intents", charge),
            "metadata": {},
        }

    def _events(self, place: int) -> JSON:
        kind, resource = _CHANGES[place % len(_CHANGES)]
        about = self.row(resource, place // len(_CHANGES) % len(self.times(resource)))
        return {
            "object": "event",
            "type": kind,
            "api_version": VERSION,
            "data": {"object": about},
            "pending_webhooks": 0,
            "request": {"id": None, "idempotency_key": None},
        }
