"""The deployment's own admin: people, tenants with plan and memberships, API keys. Staff only, across tenants.

What the engine relies on is shown and not edited; what changes a job goes through its actions (`historical_sync.admin`).
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Any

from django import forms
from django.conf import settings
from django.contrib import admin, messages
from django.contrib.auth.admin import GroupAdmin as DjangoGroupAdmin
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.contrib.auth.forms import AdminPasswordChangeForm, AdminUserCreationForm, UserChangeForm
from django.contrib.auth.models import Group
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.db.models import Count, Model, QuerySet
from django.forms.models import BaseInlineFormSet
from django.http import Http404, HttpRequest, HttpResponse
from django.urls import reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from rest_framework_api_key.models import APIKey as UnusedKey

from atom import audit, members, sign_ins
from atom.audit import OPERATOR
from atom.errors import Refused
from atom.models import ApiKey, Identity, Membership, Role, Tenant, User
from atom.words import day_month_year

admin.site.site_header = admin.site.site_title = "Atom"
admin.site.index_title = "This deployment"
RIGHTS_OF_STAFF = ("is_staff", "is_superuser", "groups", "user_permissions")  # which superusers alone give
admin.site.unregister(Group)
admin.site.unregister(UnusedKey)  # the library's own model; keys here belong to a tenant


class ReadOnly:
    """Mixin: rows that a hand edit would make untrue."""

    def has_add_permission(self, request: HttpRequest, *args: Any) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


def leads_to(field: str) -> Callable[[Any], str | bool]:
    """A column of a list that leads to what the row's `field` names."""

    @admin.display(description=field, ordering=field)
    def link(row: Any) -> str:
        other: Model | None = getattr(row, field)
        if other is None:
            return "-"
        address = reverse(f"admin:{other._meta.app_label}_{other._meta.model_name}_change", args=[other.pk])
        return format_html('<a href="{}">{}</a>', address, other)

    return link


def rows_of(row: Model, field: str, **models: str) -> SafeString:
    """Links to the lists of what belongs to the row by its `field`. models: app_model -> words."""
    lists = [(reverse(f"admin:{name}_changelist"), field, row.pk, words) for name, words in models.items()]
    return format_html_join(" · ", '<a href="{}?{}__id__exact={}">{}</a>', lists)


def yes_or_no(title: str) -> type[admin.BooleanFieldListFilter]:
    """A filter under a title of its own: a field's name makes "By by oauth"."""

    class YesOrNo(admin.BooleanFieldListFilter):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.title = title

    return YesOrNo


class LowerEmail(forms.ModelForm):  # type: ignore[type-arg]
    def clean_email(self) -> str:
        return str(self.cleaned_data["email"]).lower()


class NewUser(LowerEmail, AdminUserCreationForm):  # type: ignore[type-arg]
    class Meta:
        model = User
        fields = ("email", "name")


class NewUserWithoutPassword(LowerEmail):
    """Where people sign in by single sign-on alone."""

    class Meta:
        model = User
        fields = ("email", "name")

    def save(self, commit: bool = True) -> User:
        self.instance.set_unusable_password()
        made: User = super().save(commit)
        return made


class ChangedUser(LowerEmail, UserChangeForm):  # type: ignore[type-arg]
    class Meta:
        model = User
        fields = "__all__"  # noqa: DJ007 - which ones are shown is the admin's `fieldsets`


class SetPassword(AdminPasswordChangeForm):  # type: ignore[type-arg]
    @transaction.atomic
    def save(self, commit: bool = True) -> User:
        user: User = super().save(commit)
        sign_ins.note(user, OPERATOR, "member.password")
        return user


def may_touch(request: HttpRequest, user: User | None) -> bool:
    """Whether whoever asks may change this person, their password too: a superuser is changed by superusers."""
    return request.user.is_superuser or user is None or not user.is_superuser


class IdentityInline(admin.TabularInline):  # type: ignore[type-arg]
    """Who signs in to the account at the issuer. Without it the next who comes with its address does."""

    model = Identity
    extra = 0
    verbose_name_plural = "Single sign-on"
    fields = readonly_fields = ("issuer", "subject", "created_at")

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return True  # as of the account

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return may_touch(request, obj)


@admin.register(User)
class UserAdmin(DjangoUserAdmin):  # type: ignore[type-arg]
    """People. What they may do in a tenant is in the tenant's memberships, which end with the account; the last owner's does not."""

    form, add_form, change_password_form = ChangedUser, NewUser, SetPassword
    ordering = ("email",)
    list_display = ("email", "name", "is_active", "is_staff", "date_joined")
    list_filter = (("is_active", yes_or_no("account in use")), ("is_staff", yes_or_no("staff")), "is_superuser")
    search_fields = ("email", "name")
    readonly_fields = ("last_login", "date_joined")
    fieldsets = (
        (None, {"fields": ("email", "name", "password")}),
        ("The deployment's staff", {"fields": ("is_active", *RIGHTS_OF_STAFF)}),
        ("Dates", {"fields": ("last_login", "date_joined")}),
    )
    add_fieldsets = ((None, {"classes": ("wide",), "fields": ("email", "name", "usable_password", "password1", "password2")}),)  # fmt: skip

    def get_fieldsets(self, request: HttpRequest, obj: User | None = None) -> Any:
        if settings.PASSWORDS:
            return super().get_fieldsets(request, obj)
        return ((None, {"fields": ("email", "name")}), *(self.fieldsets[1:] if obj else ()))

    def get_form(self, request: HttpRequest, obj: User | None = None, change: bool = False, **kwargs: Any) -> Any:
        if obj is None and not settings.PASSWORDS:
            kwargs["form"] = NewUserWithoutPassword
        return super().get_form(request, obj, change=change, **kwargs)

    def user_change_password(self, request: HttpRequest, id: str, form_url: str = "") -> HttpResponse:
        if not settings.PASSWORDS:
            raise Http404
        return super().user_change_password(request, id, form_url)

    def get_inlines(self, request: HttpRequest, obj: User | None) -> list[Any]:
        return [IdentityInline] if obj and obj.identities.exists() else []

    def get_readonly_fields(self, request: HttpRequest, obj: User | None = None) -> tuple[str, ...]:
        # Else whoever may change users could give themselves every right that there is.
        return self.readonly_fields if request.user.is_superuser else (*self.readonly_fields, *RIGHTS_OF_STAFF)

    def has_change_permission(self, request: HttpRequest, obj: User | None = None) -> bool:
        return super().has_change_permission(request, obj) and may_touch(request, obj)

    def has_delete_permission(self, request: HttpRequest, obj: User | None = None) -> bool:
        return super().has_delete_permission(request, obj) and may_touch(request, obj)

    def get_deleted_objects(
        self, objs: Any, request: HttpRequest
    ) -> tuple[list[str], dict[str, int], set[str], list[str]]:
        found, counts, lacking, protected = super().get_deleted_objects(objs, request)
        last = [f"{one.tenant}, whose last owner is {one.user}" for one in members.without_owner_if_gone(list(objs))]
        return found, counts, lacking, [*protected, *last]

    def delete_model(self, request: HttpRequest, obj: User) -> None:
        self.delete_queryset(request, User.objects.filter(pk=obj.pk))

    @transaction.atomic
    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[User]) -> None:
        try:
            members.remove_everywhere(OPERATOR, list(queryset))
        except Refused as error:  # the other owner went since the page asked
            raise PermissionDenied(error.detail) from None
        super().delete_queryset(request, queryset)


@admin.register(Group)
class GroupAdmin(DjangoGroupAdmin):
    """Groups, which superusers alone change: else whoever may do so could give their own every right that there is."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        return bool(request.user.is_superuser)

    def has_change_permission(self, request: HttpRequest, obj: Group | None = None) -> bool:
        return bool(request.user.is_superuser)

    def has_delete_permission(self, request: HttpRequest, obj: Group | None = None) -> bool:
        return bool(request.user.is_superuser)


class MembershipFormSet(BaseInlineFormSet):  # type: ignore[type-arg]
    """A tenant that has an owner keeps one; a membership stays the person's that it was made for, as the audit log has it."""

    def add_fields(self, form: Any, index: int | None) -> None:
        super().add_fields(form, index)
        if not form.instance._state.adding:
            user = form.instance.user
            form.fields["user"].disabled = True
            # The one that it is: the admin's own asks the database for it, member by member.
            form.fields["user"].widget = forms.Select(choices=[(user.pk, str(user))])

    def clean(self) -> None:
        super().clean()
        # One at a time per tenant, as in `atom.members`. What this form leaves alone is as the database has it by now.
        list(Tenant.objects.select_for_update(no_key=True).filter(pk=self.instance.pk))
        owners = set(Membership.objects.filter(tenant=self.instance.pk, role=Role.OWNER).values_list("pk", flat=True))
        left = set(owners)
        for form in self.forms:
            if form in self.deleted_forms:
                left.discard(form.instance.pk)
            elif form.has_changed():
                left.discard(form.instance.pk)
                if form.cleaned_data.get("role") == Role.OWNER:
                    left.add(form.instance.pk)
        if owners and not left:
            raise forms.ValidationError(members.NEEDS_AN_OWNER)


class MembershipInline(admin.TabularInline):  # type: ignore[type-arg]
    model = Membership
    formset = MembershipFormSet
    extra = 0
    autocomplete_fields = ("user",)
    fields = ("user", "role")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Membership]:
        return super().get_queryset(request).select_related("user", "tenant")


@admin.register(Tenant)
class TenantAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Tenants. A smaller plan stops new imports and lets running ones finish. Deleting one is not a click.

    What is changed here is in the tenant's own audit log.
    """

    list_display = ("name", "slug", "plan", "people", "created_at")
    list_filter = ("plan",)
    search_fields = ("name", "slug")
    fields = ("name", "slug", "plan", "created_at", "parts")
    inlines = (MembershipInline,)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Tenant]:
        return super().get_queryset(request).annotate(people=Count("memberships"))

    def get_readonly_fields(self, request: HttpRequest, obj: Tenant | None = None) -> tuple[str, ...]:
        # Scripts know a tenant by its slug.
        return ("slug", "created_at", "parts") if obj else ("created_at",)

    def get_fields(self, request: HttpRequest, obj: Tenant | None = None) -> tuple[str, ...]:
        return self.fields if obj else self.fields[:-1]

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def save_model(self, request: HttpRequest, obj: Tenant, form: Any, change: bool) -> None:
        super().save_model(request, obj, form, change)
        if change and "plan" in form.changed_data:
            audit.record(obj.id, OPERATOR, "workspace.plan", obj.limits.name)
        if change and "name" in form.changed_data:
            audit.record(obj.id, OPERATOR, "workspace.renamed", obj.name, f"was {form.initial['name']}")

    def save_formset(self, request: HttpRequest, form: Any, formset: Any, change: bool) -> None:
        before = {one.instance.pk: one.initial.get("role") for one in formset.initial_forms}
        super().save_formset(request, form, formset, change)
        tenant_id = form.instance.id
        for member in formset.new_objects:
            audit.record(tenant_id, OPERATOR, "member.added", member.user.email, f"as {member.role}")
        for member, _ in formset.changed_objects:
            audit.record(
                tenant_id, OPERATOR, "member.role", member.user.email, f"from {before[member.pk]} to {member.role}"
            )
        for member in formset.deleted_objects:
            audit.record(tenant_id, OPERATOR, "member.removed", member.user.email, f"was {member.role}")

    @admin.display(description="Belonging to it")
    def parts(self, tenant: Tenant) -> SafeString:
        return rows_of(
            tenant, "tenant", integrations_connection="connections", historical_sync_historicalsyncjob="jobs",
            historical_sync_jobevent="events", historical_sync_webhookendpoint="webhooks", atom_apikey="API keys",
        )  # fmt: skip

    @admin.display(ordering="people")
    def people(self, tenant: Any) -> int:
        return int(tenant.people)


def ending(moment: datetime | None) -> str:
    """When a key ends: 16 Nov 2026, 14:05 UTC."""
    if moment is None:
        return "when revoked"
    there = moment.astimezone(UTC)
    return f"{day_month_year(there)}, {there:%H:%M} UTC"


@admin.register(ApiKey)
class ApiKeyAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Keys of programs. A new key is shown once, after it is made; afterwards only its prefix is known."""

    list_display = ("prefix", "name", leads_to("tenant"), "role", "created", "used", "expiry_date", "revoked")
    list_filter = ("role", "revoked", "tenant")
    list_select_related = ("tenant",)
    search_fields = ("name", "prefix", "tenant__name", "tenant__slug")
    fields = ("tenant", "role", "name", "expiry_date", "revoked", "prefix", "used")

    def get_readonly_fields(self, request: HttpRequest, obj: ApiKey | None = None) -> tuple[str, ...]:
        if obj is None:
            return ("prefix", "revoked", "used")
        # What was revoked stays so, and what has ended stays ended.
        if obj.revoked:
            return self.fields
        fixed = ("tenant", "role", "prefix", "used")
        return (*fixed, "expiry_date") if obj.has_expired else fixed

    @admin.display(description="last used", ordering="last_used", empty_value="never used")
    def used(self, key: ApiKey) -> date | None:
        return key.last_used

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False  # a key is revoked, and the list goes on telling that there was one

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        key = None if change else ApiKey.objects.assign_key(obj)
        super().save_model(request, obj, form, change)
        if not change:
            audit.record(obj.tenant_id, OPERATOR, "key.created", obj.name, f"as {obj.role}")
        if change and "name" in form.changed_data:
            audit.record(obj.tenant_id, OPERATOR, "key.changed", obj.name, f"was {form.initial['name']}")
        if change and "expiry_date" in form.changed_data:
            before = ending(form.initial["expiry_date"])
            audit.record(
                obj.tenant_id, OPERATOR, "key.changed", obj.name, f"ends {ending(obj.expiry_date)}, was {before}"
            )
        if change and "revoked" in form.changed_data:
            audit.record(obj.tenant_id, OPERATOR, "key.revoked", obj.name)
        if key is not None:
            self.message_user(request, f"The key, which can't be shown again: {key}", messages.WARNING)
