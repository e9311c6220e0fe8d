"""Every reply that a client can see: code (RFC 5321 4.2.3), enhanced code (RFC 3463) and text, in one place.

No text tells of our insides. The code decides what a client does, the text is for people.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property


@dataclass(frozen=True)
class Reply:
    """One reply of one line. `enhanced` is "" where RFC 2034 knows none (greeting, HELO, 354). Dialects know a constant by its
    own name, and what a function makes by `name`, with the `values` that its text holds; one without a name keeps its words."""

    code: int
    enhanced: str
    text: str
    name: str = field(default="", compare=False)
    values: Mapping[str, str] | None = field(default=None, compare=False)

    @cached_property
    def line(self) -> bytes:
        """The reply as it is written, with its line end."""
        enhanced = f"{self.enhanced} " if self.enhanced else ""
        return f"{self.code} {enhanced}{self.text}\r\n".encode()

    @property
    def accepted(self) -> bool:
        return self.code < 400


SENDER_OK = Reply(250, "2.1.0", "Sender ok")
RECIPIENT_OK = Reply(250, "2.1.5", "Recipient ok")
RESET = Reply(250, "2.0.0", "Flushed")
NOOP = Reply(250, "2.0.0", "Ok")
BYE = Reply(221, "2.0.0", "Bye")
START_DATA = Reply(354, "", "End data with <CR><LF>.<CR><LF>")
CHUNK_OK = Reply(250, "2.0.0", "Chunk received")
NO_HELP = Reply(504, "5.5.4", "No help for that")
VERIFY = Reply(252, "2.1.5", "Cannot verify; send the mail and see")

UNKNOWN_COMMAND = Reply(500, "5.5.1", "Command not recognised")
NOT_IMPLEMENTED = Reply(502, "5.5.1", "Command not implemented")
BAD_LINE = Reply(500, "5.5.2", "Malformed command line")
LINE_TOO_LONG = Reply(500, "5.5.2", "Command line too long")
NO_ARGUMENT = Reply(501, "5.5.4", "This command takes no argument")
NEED_HELLO_NAME = Reply(501, "5.5.4", "Give your host name or address literal")
BAD_ARGUMENT = Reply(501, "5.5.4", "Malformed argument")
NO_ADDRESS = Reply(501, "5.5.4", "Give an address")
BAD_PARAMETER = Reply(555, "5.5.4", "Parameter not recognised")
BAD_SENDER = Reply(553, "5.1.7", "Malformed sender address")
BAD_RECIPIENT = Reply(553, "5.1.3", "Malformed recipient address")
NEED_SMTPUTF8 = Reply(553, "5.6.7", "This address needs SMTPUTF8")
HELLO_FIRST = Reply(503, "5.5.1", "Say EHLO or HELO first")
MAIL_FIRST = Reply(503, "5.5.1", "Say MAIL first")
RECIPIENT_FIRST = Reply(503, "5.5.1", "No recipient was accepted")
NESTED_MAIL = Reply(503, "5.5.1", "A transaction is open: say RSET to give it up")
BAD_CHUNK = Reply(501, "5.5.4", "Malformed chunk size, closing the connection")
CHUNKS_BEGUN = Reply(503, "5.5.1", "The message has begun with BDAT")
NEED_CHUNKS = Reply(503, "5.5.1", "BODY=BINARYMIME goes with BDAT")
LONG_SENDER = Reply(501, "5.1.7", "Sender path too long")
LONG_RECIPIENT = Reply(501, "5.1.3", "Recipient path too long")
NOT_OUR_DOMAIN = Reply(550, "5.7.1", "We do not relay: this domain is not served here")
NO_SUCH_DOMAIN = Reply(550, "5.1.2", "We send to domains of the DNS only")
SENDER_NOT_ALLOWED = Reply(550, "5.7.1", "You may not send to other domains from this address")
AUTHOR_NOT_ALLOWED = Reply(550, "5.7.1", "You may not write to other domains as the address in From")
UNKNOWN_INBOX = Reply(550, "5.1.1", "No such inbox here")
TOO_MANY_RECIPIENTS = Reply(452, "4.5.3", "Too many recipients: send the rest in another transaction")
TOO_BIG = Reply(552, "5.3.4", "Message exceeds the size limit")
BARE_LINE_END = Reply(554, "5.6.0", "Bare CR or LF in the message (RFC 5321 2.3.8)")
BAD_MIME = Reply(554, "5.6.1", "Malformed MIME structure: cannot convert the binary parts")
TOO_MANY_HOPS = Reply(554, "5.4.6", "Too many hops: this mail is in a loop")

STORE_FULL = Reply(452, "4.3.1", "No room now, try again later")
STORE_UNAVAILABLE = Reply(451, "4.3.0", "Cannot take mail now, try again later")
TOO_MANY_MESSAGES = Reply(450, "4.7.1", "Too much mail from your address, try again later")
TOO_MANY_RELAYED = Reply(450, "4.7.1", "Too many recipients at other domains, try again later")
GREYLISTED = Reply(451, "4.7.1", "Not known here yet, try again in a few minutes")
SAME_SUBJECT = Reply(451, "4.7.1", "Too much mail with this subject, try again later")

UNASKED = Reply(451, "4.7.0", "The author's domain cannot be asked about this mail now, try again later")
COMMAND_FAILED = Reply(451, "4.3.0", "Cannot do that now, try again later")

READY_FOR_TLS = Reply(220, "2.0.0", "Ready to start TLS")
TLS_ALREADY = Reply(503, "5.5.1", "TLS is on already")
TLS_FIRST = Reply(530, "5.7.0", "Say STARTTLS first")
LOGIN_FIRST = Reply(530, "5.7.0", "Authentication required")
LOGIN_OK = Reply(235, "2.7.0", "Authentication succeeded")
LOGIN_NEEDS_TLS = Reply(538, "5.7.11", "Say STARTTLS first: no password goes in the clear")
LOGIN_TOO_LONG = Reply(500, "5.5.6", "Authentication exchange line too long")
LOGIN_ALREADY = Reply(503, "5.5.1", "You are logged in already")
LOGIN_IN_MAIL = Reply(503, "5.5.1", "Not during a mail transaction")
LOGIN_FAILED = Reply(535, "5.7.8", "Authentication credentials invalid")
LOGIN_ABORTED = Reply(501, "5.7.0", "Authentication cancelled")
LOGIN_UNKNOWN = Reply(504, "5.5.4", "Authentication mechanism not supported")
LOGIN_NOT_NOW = Reply(454, "4.7.0", "Temporary authentication failure")
LOGIN_BAD = Reply(501, "5.5.2", "Cannot decode that")
NEED_LHLO = Reply(500, "5.5.1", "This is LMTP: say LHLO")

TOO_MANY_COMMANDS = Reply(421, "4.7.0", "Too many commands without a mail, closing the connection")
NOT_SMTP = Reply(421, "4.7.0", "This is not what SMTP looks like, closing the connection")
TOO_SLOW = Reply(421, "4.4.2", "Transaction lasts too long, closing the connection")
TOO_MANY_ERRORS = Reply(421, "4.7.0", "Too many errors, closing the connection")
TOO_MANY_LOGINS = Reply(421, "4.7.0", "Too many failed logins, try again later")
TOO_MANY_UNKNOWN = Reply(421, "4.7.1", "Too many unknown recipients, try again later")
TOO_MANY_CONNECTIONS = Reply(421, "4.7.0", "Too many connections, try again later")
TOO_FAST = Reply(421, "4.7.0", "Connecting too fast, try again later")
IDLE = Reply(421, "4.4.2", "Idle for too long, closing the connection")
SESSION_TOO_LONG = Reply(421, "4.4.2", "Session lasts too long, closing the connection")
SHUTTING_DOWN = Reply(421, "4.3.2", "Shutting down, try again later")
DENIED = Reply(554, "5.7.1", "No service for your address")


def listed(zone: str) -> Reply:
    """A DNS blocklist has the client's address."""
    return Reply(554, "5.7.1", f"Your address is listed by {zone}")


def unauthentic(reason: str) -> Reply:
    """The domain in From asks to refuse what it has not signed or sent (RFC 7489 6.3)."""
    text = f"Sender authentication failed: {reason}"
    return Reply(550, "5.7.26", text, "unauthentic", {"reason": reason})  # 5.7.26: RFC 7372 3.3


def objection(code: int, enhanced: str, text: str) -> Reply:
    """What an operator's check has decided: these words are its own."""
    return Reply(code, enhanced, text)


def queued(mail_id: str, size: int = 0) -> Reply:
    """The mail (of `size` octets) is on disk and ours to answer for."""
    return Reply(250, "2.0.0", f"Queued as {mail_id}", "queued", {"id": mail_id, "size": str(size)})


def greeting(hostname: str, protocol: str) -> Reply:
    """The first line of a session (RFC 5321 4.2)."""
    return Reply(220, "", f"{hostname} {protocol}", "greeting", {"protocol": protocol})


def hello(hostname: str) -> Reply:
    """Answers HELO; in the words of a dialect it is the first line of what answers EHLO too."""
    return Reply(250, "", hostname, "hello")


def commands(verbs: str) -> Reply:
    """Answers HELP."""
    return Reply(214, "2.0.0", f"Commands: {verbs}", "help", {"commands": verbs})


def syntax(text: str) -> Reply:
    """Answers HELP COMMAND."""
    return Reply(214, "2.0.0", f"Syntax: {text}", "help-command", {"syntax": text})
