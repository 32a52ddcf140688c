"""People, groups and API tokens in the console: the site's business, for superusers, by Django's own rules."""

from typing import Any

from django.contrib import admin, messages
from django.contrib.auth.admin import GroupAdmin as DjangoGroupAdmin
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.contrib.auth.models import Group, User
from django.http import HttpRequest
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from rest_framework.authtoken.admin import TokenAdmin as DrfTokenAdmin
from rest_framework.authtoken.admin import TokenChangeList as DrfTokenChangeList
from rest_framework.authtoken.models import TokenProxy
from unfold.admin import ModelAdmin
from unfold.forms import AdminPasswordChangeForm, UserChangeForm, UserCreationForm
from unfold.views import ChangeList


def _whose(token: TokenProxy) -> str:
    return _("Token of %(user)s") % {"user": token.user}


# Its own is the key, which Django would write into page titles, messages and its log of actions.
TokenProxy.__str__ = _whose  # type: ignore[assignment, method-assign]

for _model in (User, Group, TokenProxy):
    admin.site.unregister(_model)


# What Unfold and the stubs declare of ModelAdmin differs; a class that is both inherits the difference.
@admin.register(User)
class UserAdmin(DjangoUserAdmin, ModelAdmin):  # type: ignore[misc, type-arg]
    form = UserChangeForm
    add_form = UserCreationForm
    change_password_form = AdminPasswordChangeForm
    list_fullwidth = True


@admin.register(Group)
class GroupAdmin(DjangoGroupAdmin, ModelAdmin):  # type: ignore[misc]
    list_fullwidth = True


class TokenChangeList(DrfTokenChangeList, ChangeList):
    """Unfold's list, with each row's address made of the user's id and not of the token."""


@admin.register(TokenProxy)
class TokenAdmin(DrfTokenAdmin, ModelAdmin):  # type: ignore[misc]
    # Not the key: a page that is left open must not hand anybody a token.
    list_display = ("user", "created")
    list_display_links = ("user",)
    list_select_related = ("user",)
    search_help_text = gettext_lazy("Search by user name")
    list_fullwidth = True

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> Any:
        return TokenChangeList

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False  # delete it and make another

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        super().save_model(request, obj, form, change)
        told = _("The token of %(user)s is %(key)s. Keep it now: it is not shown again.")
        messages.warning(request, told % {"user": obj.user, "key": obj.key})
