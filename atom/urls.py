"""Every address of the site. The sandbox is mounted in `atom.asgi`."""

from django.contrib import admin
from django.urls import include, path
from django.views.generic import RedirectView
from drf_spectacular.views import SpectacularAPIView

from atom import accounts, single_sign_on, views, workspace

urlpatterns = [
    path("", views.home, name="home"),
    path("sign-in", single_sign_on.led_again(views.sign_in), name="sign-in"),
    path("sign-in/single", single_sign_on.begin, name="single-sign-on"),
    path("sign-in/return", single_sign_on.back, name="single-sign-on-return"),
    path("sign-out", views.sign_out, name="sign-out"),
    path("workspace", views.switch_tenant, name="switch-tenant"),
    path("appearance", views.appearance, name="appearance"),
    path("settings", workspace.general, name="settings"),
    path("settings/members", workspace.people, name="settings-members"),
    path("settings/members/<uuid:membership_id>", workspace.member, name="settings-member"),
    path("settings/leave", workspace.leave, name="settings-leave"),
    path("settings/keys", workspace.keys, name="settings-keys"),
    path("settings/keys/<str:prefix>/revoke", workspace.revoke_key, name="settings-key-revoke"),
    path("settings/audit", workspace.audit_log, name="settings-audit"),
    path("settings/audit.csv", workspace.audit_file, name="settings-audit-csv"),
    path("password", accounts.ChangePassword.as_view(), name="change-password"),
    path("password/forgotten", accounts.ForgotPassword.as_view(), name="forgot-password"),
    path("password/<str:uidb64>/<str:token>", accounts.ResetPassword.as_view(), name="reset-password"),
    path("welcome/<str:uidb64>/<str:token>", accounts.SetPassword.as_view(), name="set-password"),
    path("admin/login/", views.admin_sign_in),
    path("admin/logout/", views.admin_sign_out),
    # The site's page, with its limit of tries and its line in the audit log.
    path("admin/password_change/", RedirectView.as_view(pattern_name="change-password")),
    path("admin/", admin.site.urls),
    path("api/schema", SpectacularAPIView.as_view(), name="api-schema"),
    path("api/", include("historical_sync.api_urls")),
    path("api/", include("integrations.api_urls")),
    path("", include("integrations.urls")),
    path("", include("historical_sync.urls")),
]

handler400 = "atom.views.bad_request"
handler403 = "atom.views.permission_denied"
handler404 = "atom.views.not_found"
handler500 = "atom.views.server_error"
