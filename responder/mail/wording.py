"""What a failure means, in words for who wrote the mail and never heard of SMTP: one or two sentences for each reason."""

from __future__ import annotations

from typing import Final

from responder.mail.replies import Reason

MEANS: Final[dict[Reason, str]] = {
    Reason.GREYLISTED: "The receiving server puts off mail from servers that it does not know yet.",
    Reason.RATE: "The receiving server takes no more mail from us for the moment.",
    Reason.BUSY: "The receiving server has too much to do for the moment.",
    Reason.BLOCKLISTED: "The receiving server does not take mail from our address on the Internet, as others have reported spam"
    " from it. Nothing is wrong with the address that you wrote to.",
    Reason.SPAM: "The receiving server takes the message for spam. Nothing is wrong with the address that you wrote to.",
    Reason.AUTHENTICATION: "The receiving server does not believe that the message comes from where it says.",
    Reason.OUR_NAME: "The receiving server does not like the name of ours. Nothing is wrong with the address that you wrote to.",
    Reason.BAD_SENDER: "The receiving server does not accept the sender's address.",
    Reason.RELAY_DENIED: "The receiving server says that it is not the one for this address. Check what stands behind the @.",
    Reason.POLICY: "The receiving server's rules forbid this message. Ask the recipient in another way what those are.",
    Reason.CONTENT: "The receiving server forbids what is in the message, most likely a kind of attachment.",
    Reason.MALFORMED: "The receiving server says that the message is not well formed.",
    Reason.NO_SUCH_USER: "There is no mailbox of that name. Look for a typing error in the address.",
    Reason.MAILBOX_DISABLED: "The mailbox is no longer in use.",
    Reason.MAILBOX_FULL: "The recipient's mailbox is full.",
    Reason.NO_SUCH_DOMAIN: "Nothing takes mail for what stands behind the @. Look for a typing error in it.",
    Reason.NO_ROUTE: "No server can be reached for what stands behind the @. Look for a typing error in it.",
    Reason.TOO_LARGE: "The message is larger than the receiving server accepts. Send less, or a link to it.",
    Reason.TOO_MANY_RECIPIENTS: "The receiving server says that the message has too many recipients.",
    Reason.TLS_REQUIRED: "The connection to the receiving server can't be secured as it has to be.",
    Reason.UNSUPPORTED: "The receiving server can't take a message or an address of this kind.",
    Reason.LOOP: "The message goes round in circles between servers.",
    Reason.DNS: "The name servers for what stands behind the @ do not answer.",
    Reason.UNREACHABLE: "The receiving server does not answer.",
    Reason.EXPIRED: "It could not be delivered in all the time that it was tried.",
    Reason.TROUBLE: "The receiving server has trouble for the moment.",
    Reason.SUPPRESSED: "Mail to this address has come back before, or its owner wants none from here, so it was not tried.",
    Reason.UNKNOWN: "",
}
