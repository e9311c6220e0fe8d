"""A small mailing list, for discussion or announcements: subscribe, confirm, post, leave.

`list@` takes posts; `list+subscribe@`, `list+unsubscribe@`, `list+help@`, `list+owner@` and `list+request@` do what they say.
Automatic mail never gets here (the server's gate keeps it): no vacation notice, bounce or other list's mail is sent on.
"""

import hashlib
import re
import secrets

from responder import Agent, Answer, Bounce, Confirmation, Distribute, Forward, Mail, Reply, hookimpl

from ._list_settings import ListSettings
from ._members import TOKEN, Members, is_address, key_of, mailbox
from ._one_click import Route, close_route, open_route

DAY = 86400.0
MAX_LOCAL = 64  # octets, RFC 5321 4.5.3.1.1

COMMANDS = {
    **dict.fromkeys(("subscribe", "join"), "subscribe"),
    **dict.fromkeys(("unsubscribe", "leave", "signoff"), "unsubscribe"),
    **dict.fromkeys(("help", "info"), "help"),
    **dict.fromkeys(("members", "who"), "members"),
}
OFTEN = ("subscribe", "unsubscribe")
REMOVE = re.compile(r"remove\s+<?([^\s<>]+)>?", re.IGNORECASE)

CONFIRM = """\
Somebody, you we hope, asked {list} to {what}.

If it was you, answer this mail and leave its subject as it is. If it was not, do nothing.

    [confirm {{token}}]
"""
WHAT = {
    "subscribe": "send its mail to you",
    "unsubscribe": "send you nothing any more",
    "remove": "send nothing any more to {address}",
}
LEFT = "The address that this link was made for gets no more mail from {list}.\n"
NO_LONGER = "This can't be used (any more). Please ask again; {help} tells how.\n"
FULL = "The list {list} has no room for more members. Its owners can be reached at {owner}.\n"
REFUSED = {
    "members": "Your mail was not sent on: only members write to {list}.\nTo become one, write to {subscribe}.\n",
    "posters": "Your mail was not sent on: {list} is for announcements.\nIts owners can be reached at {owner}.\n",
}
HELP = """\
This is the mailing list {list}.

    {subscribe}      to join
    {unsubscribe}      to leave
    {owner}      to reach a person
    {help}      for this text
"""


class MailingList(Agent):
    """A small discussion or announcement list, with confirmed subscription."""

    needs = ("targets",)

    Settings = ListSettings
    settings: ListSettings

    _members: Members
    _confirmation: Confirmation
    _route: Route | None = None

    async def start(self) -> None:
        secret = secrets.token_hex(32)
        if not await self.context.state.add("secret", secret):
            secret = await self.context.state.get("secret")
        signing = self.settings.secret.get_secret_value() if self.settings.secret else secret
        self._members = Members(self.context, secret, signing)
        self._confirmation = Confirmation(self.context, purpose="list", expires=self.settings.confirm_days * DAY)
        self._owners = {key_of(owner) for owner in self.settings.owners}
        self._posters = {key_of(poster) for poster in self.settings.posters} | self._owners
        await self._members.seed(self.settings.members)
        if self.settings.one_click is not None:
            self._route = Route(self._members.is_token, self._members.redeem)
            await open_route(self.context, *self.settings.one_click.endpoint, self._route)

    async def stop(self) -> None:
        if self.settings.one_click is not None and self._route is not None:
            await close_route(self.context, *self.settings.one_click.endpoint, self._route)

    async def answer(self, mail: Mail) -> Answer:
        tag = mail.tag.casefold()
        if Confirmation.carries(mail):
            return await self._confirmed(mail)
        if tag.startswith("unsubscribe-"):
            return await self._leave(mail, tag.removeprefix("unsubscribe-"))
        if tag == "owner":
            return Forward(to=self.settings.owners) if self.settings.owners else self._reply(mail, HELP)
        if not tag:
            # People write "unsubscribe" to the list itself, and nobody else wants to read that.
            word = _word(mail.base_subject)
            return await (self._do(mail, word) if word in OFTEN else self._post(mail))
        if tag != "request":
            return await self._do(mail, COMMANDS.get(tag, "help"))
        line = mail.base_subject or next(filter(str.strip, mail.reply_text[:1000].splitlines()), "")
        if match := REMOVE.fullmatch(line.strip()):
            return await self._do(mail, "remove", match[1])
        return await self._do(mail, COMMANDS.get(_word(line), "help"))

    async def bounced(self, bounce: Bounce) -> None:
        if not bounce.permanent:
            return
        days = await self._members.bounced(bounce.recipient, self.settings.bounce_days)
        if days >= self.settings.bounce_limit:
            await self._members.remove(bounce.recipient)
            self.context.log.warning(
                "removed %s: mail came back on %d days, last: %s", bounce.recipient, days, bounce.text[:200]
            )

    # -- posts ------------------------------------------------------------------------------------------------------------

    async def _post(self, mail: Mail) -> Answer:
        refused = await self._refusal(mail)
        if refused:
            # One in a day: the sender may be a forged one, or a spammer's victim.
            return self._reply(mail, REFUSED[refused], handle="refused", interval=DAY)
        if not await self.context.state.add(f"post/{_fingerprint(mail)}", 1, expires=DAY):
            return None  # sent on already: its client tried again
        own = mailbox(mail.recipient)
        unwanted = () if self.settings.echo_posts else (key_of(mail.sender), key_of(mail.from_))
        addresses = [
            address
            for key, address in (await self._members.all()).items()
            if mailbox(key) != own and key not in unwanted
        ]
        tokens = {address: self._members.token(address) for address in addresses}
        fits = len(f"{own.rpartition('@')[0]}+unsubscribe-".encode()) + TOKEN <= MAX_LOCAL
        url = self.settings.one_click.url if self.settings.one_click else ""
        prefix = self.settings.subject_prefix
        return Distribute(
            to=addresses,
            name=self.settings.name,
            subject_prefix=f"[{self.settings.name}] " if prefix is None else prefix,
            discussion=self.settings.mode == "discussion",
            one_click={address: f"{url}/{token}" for address, token in tokens.items()} if url else {},
            tokens=tokens if fits else {},
        )

    async def _refusal(self, mail: Mail) -> str:
        """Why a mail isn't sent on, or "". Both who sent it and who is shown as its author must be allowed to post: else the
        answer would tell a stranger whether the author of their choice is a member."""
        who = {key_of(mail.sender), key_of(mail.from_)}
        if self.settings.mode == "announcement":
            if mail.authentication.dmarc == "fail":  # From is forged, whatever its domain's policy is
                return "posters"
            return "" if who <= self._posters else "posters"
        if self.settings.posting == "anyone" or all([await self._members.has(one) for one in who]):
            return ""
        return "members"

    # -- commands ---------------------------------------------------------------------------------------------------------

    async def _do(self, mail: Mail, command: str, argument: str = "") -> Answer:
        """Nothing here tells whether an address is a member but to whom reads its mail."""
        if command in ("subscribe", "unsubscribe"):
            if mailbox(mail.sender) == mailbox(mail.recipient):
                return None
            return await self._ask(mail, {"action": command})
        if key_of(mail.sender) in self._owners:  # the answer goes to that address, so a forged sender learns nothing
            if command == "members":
                found = await self._members.all()
                return self._plain(
                    "".join([f"{address}\n" for address in found.values()]) + f"\n{len(found)} members\n"
                )
            if command == "remove" and is_address(argument):
                return await self._ask(mail, {"action": command, "address": argument})
        return self._reply(mail, HELP)

    async def _ask(self, mail: Mail, request: dict[str, str]) -> Reply | None:
        if not is_address(mail.sender):
            self.context.log.info("the sender's address is of a form that lists don't send to")
            return None
        what = WHAT[request["action"]].format(**request)
        text = CONFIRM.format(list=_list(mail), what=what)
        return await self._confirmation.ask(mail, request, text, f"Your request to {self.settings.name}")

    async def _confirmed(self, mail: Mail) -> Answer:
        request = await self._confirmation.redeem(mail)
        action = request["action"] if request else ""
        if action == "subscribe":
            if len(await self._members.all()) >= self.settings.max_members and not await self._members.has(mail.sender):
                return self._reply(mail, FULL)
            await self._members.add(mail.sender)
            return self._reply(mail, self.settings.welcome)
        if action == "unsubscribe":
            await self._members.remove(mail.sender)
            return self._reply(mail, self.settings.goodbye)
        if action == "remove" and key_of(mail.sender) in self._owners:
            was = await self._members.remove(request["address"])
            return self._plain(f"{request['address']} {'is not a member any more' if was else 'was no member'}.\n")
        return self._reply(mail, NO_LONGER)

    async def _leave(self, mail: Mail, token: str) -> Answer:
        if not self._members.is_token(token):
            return self._reply(mail, NO_LONGER)
        await self._members.redeem(token)  # once or twice: it is the same
        return self._reply(mail, LEFT)

    # -- words ------------------------------------------------------------------------------------------------------------

    def _reply(self, mail: Mail, text: str, *, handle: str = "", interval: float | None = None) -> Reply:
        for name in ("list", "subscribe", "unsubscribe", "owner", "help"):
            text = text.replace(f"{{{name}}}", _list(mail, "" if name == "list" else name))
        return self._plain(text, handle=handle, interval=interval)

    def _plain(self, text: str, *, handle: str = "", interval: float | None = None) -> Reply:
        """From `+owner` or `+help`: whoever says thank you must not say it to the list."""
        tag = "owner" if self._owners else "help"
        return Reply(
            text=text,
            subject=f"[{self.settings.name}] Your mail",
            tag=tag,
            handle=handle,
            interval=interval,
            to_sender=True,  # From may name another one than whose rights were looked at
        )


def _list(mail: Mail, tag: str = "") -> str:
    """The list's address, as it was written to."""
    local, _, domain = mail.recipient.rpartition("@")
    local = local.partition("+")[0]
    return f"{local}+{tag}@{domain}" if tag else f"{local}@{domain}"


def _word(line: str) -> str:
    """A line as commands are compared."""
    return line.strip(" .!\"'").casefold()


def _fingerprint(mail: Mail) -> str:
    """What two copies of one post share: the Received lines of the second differ."""
    shared = [key_of(mail.sender), mail.message_id or f"{mail.headers.get('date')}\0{mail.subject}\0{mail.text}"]
    return hashlib.sha256("\0".join(shared).encode("utf-8", "replace")).hexdigest()[:40]


@hookimpl
def responder_agents() -> dict[str, type[Agent]]:
    return {"list": MailingList}
