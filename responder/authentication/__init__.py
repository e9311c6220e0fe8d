"""Who wrote a mail: SPF, DKIM, ARC and DMARC, looked at once, when its last octet has come."""

from responder.authentication.forged import strip_forged
from responder.authentication.verifier import Authenticator, Judgement

__all__ = ["Authenticator", "Judgement", "strip_forged"]
