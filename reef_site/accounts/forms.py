"""Passwords as people enter them; every check is throttled."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib.auth import authenticate
from django.contrib.auth.forms import AuthenticationForm
from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from django.http import HttpRequest

from reef_site.accounts import throttle
from reef_site.audit import log

THROTTLED = "throttled"


def check_password(request: HttpRequest, username: str, password: str) -> User:
    """Return the account with this name and password. Raises ValidationError.

    Attempts that have to wait are answered at once, without looking at the password.
    """
    attempt = throttle.begin(request, username)
    if attempt.wait_seconds:
        log.failed_sign_in(request, username, "throttled", status=429)
        text = "Too many failed attempts. Try again in %(seconds)s s, or use a sign-in link."
        values = {"seconds": attempt.wait_seconds}
        raise ValidationError(text, code=THROTTLED, params=values)
    user = authenticate(request, username=username, password=password)
    if not isinstance(user, User):
        log.failed_sign_in(request, username, "wrong name or password", status=401)
        raise ValidationError("The name or the password is wrong.", code="invalid")
    throttle.succeeded(attempt)
    return user


class SignInForm(AuthenticationForm):
    """Name and password."""

    error_messages = {"inactive": "This account is deactivated."}

    def clean(self) -> dict[str, Any]:
        """Check the password unless there were too many failures."""
        username = self.cleaned_data.get("username")
        password = self.cleaned_data.get("password")
        if username and password and self.request:
            self.user_cache = check_password(self.request, username, password)
        return self.cleaned_data

    @property
    def wait_seconds(self) -> int:
        """Return for how long the next attempt has to wait; 0 if it was not throttled."""
        return wait_seconds_of(self)


class ProofForm(forms.Form):
    """The password of somebody who is signed in."""

    # No field of another form has this name: it is sent along with their fields.
    proof_password = forms.CharField(
        label="Password",
        strip=False,
        widget=forms.PasswordInput(attrs={"autocomplete": "current-password"}),
    )

    def __init__(self, request: HttpRequest, *args: Any, **kwargs: Any) -> None:
        self.request = request
        super().__init__(*args, **kwargs)

    def clean_proof_password(self) -> str:
        """Check it against the account of the session."""
        password: str = self.cleaned_data["proof_password"]
        try:
            user = check_password(self.request, self.request.user.get_username(), password)
        except ValidationError as error:
            if error.code == THROTTLED:
                raise
            user = None
        if user is None or user.pk != self.request.user.pk:
            raise ValidationError("The password is wrong.", code="invalid")
        return password

    @property
    def wait_seconds(self) -> int:
        """Return for how long the next attempt has to wait; 0 if it was not throttled."""
        return wait_seconds_of(self)


def wait_seconds_of(form: forms.BaseForm) -> int:
    """Return the longest wait among the form's errors, in seconds; 0 if none was throttled."""
    errors = [error for errors in form.errors.as_data().values() for error in errors]
    waits = [error.params["seconds"] for error in errors if error.code == THROTTLED]  # type: ignore[index]
    return max(waits, default=0)
