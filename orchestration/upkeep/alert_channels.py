"""Delivery of alerts: a webhook by urllib3, e-mail by smtplib. Errors name the server, never an address or a password."""

from __future__ import annotations

import smtplib
import ssl
from dataclasses import dataclass
from email.message import EmailMessage
from email.utils import formatdate, make_msgid
from urllib.parse import urlsplit

from orchestration.upkeep.alerts import Alert, Alerts, Channel, DeliveryError, EmailTable, WebhookTable, as_json

TIMEOUT_S = 10.0


def channels_of(settings: Alerts) -> list[Channel]:
    """Those that are configured."""
    found: list[Channel] = []
    if settings.webhook:
        found.append(Webhook(settings.webhook))
    if settings.email:
        found.append(Email(settings.email))
    return found


@dataclass(frozen=True)
class Webhook:
    """POST of one JSON object; tried three times, not redirected."""

    table: WebhookTable
    name: str = "webhook"

    def send(self, alert: Alert) -> None:
        """Raises DeliveryError unless the answer is 2xx."""
        import urllib3

        host = urlsplit(self.table.url).hostname
        retry = urllib3.Retry(
            total=2, redirect=0, backoff_factor=0.5, allowed_methods=None, status_forcelist=(429, 502, 503, 504),
            raise_on_status=False, raise_on_redirect=False,
        )  # fmt: skip
        try:
            with urllib3.PoolManager(retries=retry, timeout=TIMEOUT_S) as pool:
                answer = pool.request("POST", self.table.url, json=as_json(alert))
        except urllib3.exceptions.HTTPError as error:
            raise DeliveryError(f"{host} cannot be reached ({_cause(error)})") from None
        if not 200 <= answer.status < 300:
            raise DeliveryError(f"{host} answered {answer.status}")


def _cause(error: Exception) -> str:
    """The innermost error's name: the messages hold the whole address."""
    inner = getattr(error, "reason", None)
    return type(inner if isinstance(inner, Exception) else error).__name__


@dataclass(frozen=True)
class Email:
    """One plain-text message to everybody at once."""

    table: EmailTable
    name: str = "email"

    def send(self, alert: Alert) -> None:
        """Raises DeliveryError when the server, its encryption, the login or a receiver fails."""
        table = self.table
        message = EmailMessage()
        message["Subject"] = f"Headwater: {alert.title}"
        message["From"], message["To"] = table.sender, ", ".join(table.to)
        message["Date"], message["Message-ID"] = formatdate(), make_msgid(domain=table.sender.partition("@")[2])
        message["Auto-Submitted"] = "auto-generated"
        message.set_content(alert.text)
        try:
            with self._connected() as server:
                if table.user:
                    server.login(table.user, table.password)
                refused = server.send_message(message)
        except smtplib.SMTPResponseException as error:
            raise DeliveryError(f"{table.host} answered {error.smtp_code} ({type(error).__name__})") from None
        except (OSError, smtplib.SMTPException) as error:  # an SSLError is an OSError
            raise DeliveryError(f"{table.host}:{table.port}: {type(error).__name__}") from None
        if refused:
            raise DeliveryError(f"{table.host} refused {len(refused)} of {len(table.to)} receivers")

    def _connected(self) -> smtplib.SMTP:
        table = self.table
        if table.security == "tls":
            return smtplib.SMTP_SSL(table.host, table.port, timeout=TIMEOUT_S, context=ssl.create_default_context())
        server = smtplib.SMTP(table.host, table.port, timeout=TIMEOUT_S)
        try:
            if table.security == "starttls":
                server.starttls(context=ssl.create_default_context())
        except BaseException:
            server.close()
            raise
        return server
