"""A person's own password: changed, forgotten, chosen for the first time. By Django's views and tokens, whatever their workspaces.

A new password ends every other session of the person: a session holds a hash of the password, by which pages and sockets ask.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.conf import settings
from django.contrib import messages
from django.contrib.auth.tokens import default_token_generator
from django.contrib.auth.views import PasswordChangeView, PasswordResetConfirmView, PasswordResetView
from django.core.exceptions import ValidationError
from django.core.mail import send_mail
from django.db import transaction
from django.http import Http404, HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.template.loader import render_to_string
from django.urls import reverse, reverse_lazy
from django.utils.decorators import method_decorator
from django.utils.encoding import force_bytes
from django.utils.http import urlsafe_base64_encode
from django.views.decorators.cache import never_cache

from atom import sign_ins, tasks, tries
from atom.models import User
from atom.words import number


class OnlyWithPasswords:
    """Mixin: a page that is not there where people sign in by single sign-on alone."""

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        if not settings.PASSWORDS:
            raise Http404
        response: HttpResponseBase = super().dispatch(request, *args, **kwargs)  # type: ignore[misc] # the page's
        return response


@method_decorator(never_cache, name="dispatch")
class ChangePassword(OnlyWithPasswords, PasswordChangeView):
    """Of whoever is signed in, who tells the old one: as often as one may try to sign in."""

    template_name = "account/change_password.html"
    success_url = reverse_lazy("change-password")

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        return super().get_context_data(**{"error": ""} | kwargs)

    def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        assert isinstance(request.user, User)
        if tries.to_sign_in(request, request.user.email).one_too_many():
            context = self.get_context_data(form=self.form_class(request.user), error=tries.TOO_MANY)
            return tries.refused(self.render_to_response(context))
        return super().post(request, *args, **kwargs)

    def form_invalid(self, form: Any) -> HttpResponse:
        if form.has_error("old_password", "password_incorrect"):
            sign_ins.password_refused(self.request, form.user)
        if not form.has_error("old_password"):
            tries.to_sign_in(self.request, form.user.email).forgive()
        return self.render_to_response(self.get_context_data(form=form), status=400)

    def form_valid(self, form: Any) -> HttpResponse:
        tries.to_sign_in(self.request, form.user.email).forgive()
        with transaction.atomic():
            response = super().form_valid(form)
            sign_ins.password_changed(self.request, form.user)
        messages.success(self.request, "Your password is changed. You are signed out everywhere else.")
        return response


@method_decorator(never_cache, name="dispatch")
class ForgotPassword(OnlyWithPasswords, PasswordResetView):
    """Has a link sent, if there is such an account; the answer is the same, and as quick, if there is none."""

    template_name = "account/forgot_password.html"

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        own = {"sends_mail": settings.SENDS_MAIL, "days": days(), "error": "", "sent": ""}
        return super().get_context_data(**own | kwargs)

    def form_invalid(self, form: Any) -> HttpResponse:
        return self.render_to_response(self.get_context_data(form=form), status=400)

    def form_valid(self, form: Any) -> HttpResponse:
        if not settings.SENDS_MAIL:
            return self.render_to_response(self.get_context_data(form=form))
        email = form.cleaned_data["email"].lower()
        if tries.for_a_link(self.request, email).one_too_many():
            return tries.refused(self.render_to_response(self.get_context_data(form=form, error=tries.TOO_MANY)))
        tasks.send_link.defer(email=email, root=root(self.request))
        return self.render_to_response(self.get_context_data(form=form, sent=email))


class SetPassword(OnlyWithPasswords, PasswordResetConfirmView):
    """Where an invitation's link leads: the first password, then signed in. The link works once, and for three days."""

    template_name = "account/set_password.html"
    success_url = reverse_lazy("home")
    post_reset_login = True
    post_reset_login_backend = "django.contrib.auth.backends.ModelBackend"
    extra_context = {"invited": True}

    def form_valid(self, form: Any) -> HttpResponse:
        first = not form.user.has_usable_password()
        with transaction.atomic():
            response = super().form_valid(form)
            how = "by a link that was sent to them"
            if not first:
                sign_ins.password_changed(self.request, form.user, how)
            sign_ins.signed_in(self.request, form.user, how)
        return response


class ResetPassword(SetPassword):
    """Where the link leads that somebody asked for: another password. Else the same."""

    extra_context = {"invited": False}


class MaximumLengthValidator:
    """A new password is at most so many characters: with one that signing in does not read to its end nobody gets in."""

    def __init__(self, max_length: int) -> None:
        self.max_length = max_length

    def validate(self, password: str, user: User | None = None) -> None:
        if len(password) > self.max_length:
            words = f"This password is too long. It may have at most {number(self.max_length)} characters."
            raise ValidationError(words, code="password_too_long")

    def get_help_text(self) -> str:
        return f"Your password may have at most {number(self.max_length)} characters."


def send_link(email: str, root: str) -> None:
    """Writes to the account of this address, if there is one, how to choose another password.

    To those as well who were invited and have none yet: it is their mailbox either way.
    """
    user = User.objects.filter(email=email, is_active=True).first()
    if user is not None:
        context = {"address": link_for(user, "reset-password", root), "user": user, "days": days()}
        send_mail("Choose another password", render_to_string("account/link.txt", context), None, [user.email])


def link_for(user: User, name: str, root: str) -> str:
    """The address where this person, and nobody else, chooses a password; once. name: of the page."""
    uid = urlsafe_base64_encode(force_bytes(user.pk))
    return root + reverse(name, args=[uid, default_token_generator.make_token(user)])


def root(request: HttpRequest) -> str:
    """Where people reach this deployment, without a slash."""
    return settings.PUBLIC_URL or request.build_absolute_uri("/").rstrip("/")


def days() -> int:
    """For how long a link works."""
    return timedelta(seconds=settings.PASSWORD_RESET_TIMEOUT).days
