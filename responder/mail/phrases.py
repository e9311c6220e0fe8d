"""What hosts say when they refuse or put off: the rows of the table that `replies` looks through.

A row is a reason, perhaps the class of the code that it holds for (4 or 5), and phrases between bars, in lower case; `*` stands
for any words between. The first phrase that is found decides: what is special (a provider's own codes) stands before what is
general.
"""

from __future__ import annotations

from typing import Final

PHRASES: Final = """\
rate: too many recipients received this hour | too many recipients this hour | too many recipients from | (dyn:t |
    [tss0*temporarily deferred | [ts01] | [ts02] | message temporarily deferred - [ | rp-001 | rp-002 | rp-003 |
    as777 | rl000 | mi:cel | mi:dmc | mi:ccl | mi:stc | rp:drc | rp:ccl | rp:cel | rp:cdl | rp:qrc | hl:itc |
    frequency limited
blocklisted: (con:b | access from ip address*blocked | client host [*blocked | block for spam | [ts03] | [ts04] |
    [bl2 | [tss09] | [tss11] | (s3140) | (s3150) | on our block list | bl000 | mi:spb | hl:ipb | hl:ihu | dt:rbl |
    wm:bli | wm:blu | banned sending ip | banned sender | traffic not accepted from this ip |
    ask your postmaster for help or to contact to | dialup/transient ip not allowed | ers-dul | ers-rbl | ers-qil |
    ipcheck.proofpoint.com | connection rejected by policy [7.7]
greylisted: [gl01] | internal resources are temporarily unavailable | grey listed
spam: dt:spm | ofr_506 | [cs01] | [pr(ct1)]
no-such-user 5: doesn't have a*account | not listed in domino | as(201806281) | resolver.adr.recip |
    resolver.adr.exrecipnotfound | ofr204_416
relay-denied: tenantattribution
policy: resolver.rst.sendernotauth | resolver.rst.notauthorized | resolver.rst.authrequired | resolver.rst.restricted
greylisted: greylist | graylist | grey-list | gray-list | postgrey | sqlgrey |
    mail from this sender has been delayed | please come back in | not yet authorized to deliver mail from |
    temporarily rejected*unknown triple | first contact, please try again
too-many-recipients: too many recipients | too many rcpt
mailbox-full: mailbox size limit
busy: maximum number of concurrent | concurrent server connections | ports are busy | hl:rep | too many*connections |
    too many concurrent | too many simultaneous | too many sessions | maximum number of connections |
    connection limit | connections limit | concurrent connection | trop de connexions | too busy | server busy |
    server is busy | system is busy | high load | load is too high | server overload | system overload |
    resources temporarily | out of connection slots
rate: rate limit | rate-limit | ratelimit | rate control | rate that prevents | rate exceeded | unusual rate |
    receiving mail too quickly | receiving mail at a rate | unexpected volume | too many messages | too many mails |
    too many emails | too much mail | too many requests | too many errors | too many invalid | too many unknown |
    too many bad | too frequent | sending too fast | slow down | throttl | exceeded the maximum number of messages |
    message receive limit | messages per hour | messages per day | emails per hour | hourly limit | hourly quota |
    daily limit | daily quota | daily sending | daily user sending | sending limit | sending quota |
    submission quota | smtp relay limit | message rate | exceeded threshold | temporarily deferred due to |
    try again later, closing connection | unusual sending activity | has exceeded*in the last | per minute
our-name: reverse dns | reverse hostname | reverse lookup | rdns | ptr record | dns ptr | ptr resource record |
    no ptr | missing ptr | valid ptr | find your hostname | need fully-qualified hostname | helo command rejected |
    ehlo command rejected | helo name | invalid helo | bad helo | helo/ehlo | client host name | generic hostname |
    without a valid sender domain
authentication: dmarc | spf check | spf fail | spf hard | spf validation | spf: fail | fails spf | failed spf |
    pass spf | sender policy framework | spf record | spf violation | spf verification | rejected per spf |
    rejected by spf | does not designate | not designated | permitted sender | please see http://www.openspf | dkim |
    unauthenticated email | authentication information | authentication checks | required authentication level |
    authentication results | passes authentication | anti-spoofing | antispoofing | spoofed | spoofing | forged |
    not authorized to send | not allowed to send from | not permitted to send | sender is unauthenticated | dt:sum
blocklisted: spamhaus | in rbl | an rbl | rbl+ | rbl: | (rbl | .rbl | rbl. | spamcop | sorbs | barracudacentral |
    b.barracuda | uceprotect | abuseat.org | mailspike | psbl.surriel | senderscore | invaluement | truncate.gbudb |
    dnsbl | blocklist | block list | blacklist | black list | black-list | denylist | badmailfrom |
    client host*blocked | client host rejected: access denied | blocked using | is listed | listed by | listed in |
    listed at | listed on | _is_blocked | poor reputation | bad reputation | low reputation of the sending ip |
    reputation of your | reputation of the ip | ip reputation | ip address is blocked | your ip*blocked |
    your ip*banned | your host*blocked | your server*blocked | your network is | blocked - see |
    will be permanently deferred | connections will not be accepted from | connection refused*abuse | dynamic ip |
    dynamic pool | dynamically | residential | dial-up | dialup | ip not in whitelist | not whitelisted
content: virus | malware | infected | phish | potential security issue | banned attachment | attachment type |
    attachment not allowed | blocked attachment | forbidden attachment | illegal attachment | executable |
    banned content | dangerous | - banned
spam: unsolicited | spam | junk | bulk mail | gtube | likely suspicious | suspicious |
    low reputation of the sending domain | content denied | content rejected | message filtered | user complaints |
    suspected bounce attack | looks like uce | no uce | high score
bad-sender: sender address*not found | sender address*does not exist | sender address*does not resolve |
    sender address*could not | sender address*invalid | sender domain | domain of sender | domain of the sender |
    sender verify | sender verification | sender callback | callback setup | unverified sender | sender unknown |
    unknown sender | invalid sender | sender rejected | sender address rejected | null sender | bad sender |
    return address | envelope sender | mail from domain | mail from: domain
too-large: message size | message too large | message too big | message is too | message exceeds | message length |
    maximum size | maximum message | size limit | exceeded mailsize | exceeds size | exceeds maximum | exceeds fixed |
    mail too large | mail size | too large | too big | sendsizelimit
too-many-recipients: toomanyrecip | too many addresses | recipients limit | recipient limit |
    multiple destination domains | policy size per transaction | one recipient at a time | only one recipient
mailbox-full: quota | mailbox full | mailbox is full | mailbox*is full | mailbox has exceeded | mailbox size |
    inbox full | inbox is full | user is full | account is full | out of storage space | storage limit |
    storage full | recipient storage | storage allocation | not enough storage space | not enough space in |
    user has too many | full mailbox | mailfolder is full | over capacity | casella piena | boite*pleine |
    buzon*lleno | postfach*voll
mailbox-disabled: mailbox is not active | account is not active | user is not active | account terminated |
    been terminated | disabled | deactivated | inactive | suspended | no longer active | no longer in use |
    no longer valid | no longer available | no longer on server | no longer accept | no longer employed |
    account is locked | account locked | account closed | account has been closed | mailbox closed |
    mailbox is blocked | mailbox blocked | mailbox locked | account is blocked | account expired |
    account has expired | discontinued | user has moved | has moved to | mailbox is unavailable: account is
relay-denied: relay access denied | relaying denied | relaying not | relaying disallowed | relay not permitted |
    relay denied | relay is not allowed | unable to relay | not permitted to relay | we do not relay | relaying is |
    rcpthosts | not a gateway | open relay | relay prohibited | not our domain | domain not allowed |
    is not a local domain | relay rejected | not hosted here
no-such-user: user unknown | unknown user | unknown or invalid user | unknown recipient | recipient unknown |
    unknown mailbox | unknown local | unknown address | unknown account | unknown email | unknown or illegal |
    addressee unknown | address unknown | user*unknown | no such user | no such recipient | no such mailbox |
    no such address | no such account | no such person | no such email | no such local | no such domain user |
    no mailbox | no mail box | no account | no user | not our customer | not a known user | not a valid mailbox |
    not a valid recipient | not a valid user | not a known recipient | nosuchuser | nobody here | no one here |
    user not found | user doesn't exist | user does not exist | user not exist | account not found |
    account*does not exist | account*doesn't exist | account that you tried to reach does not |
    address*does not exist | address*doesn't exist | address not found | address not exist | address invalid |
    invalid address | invalid mailbox | invalid user | invalid recipient | invalid email | invalid destination |
    bad destination mailbox | bad destination email | mailbox not found | mailbox does not exist |
    mailbox doesn't exist | mailbox*does not exist | mailbox not available | mailbox unavailable |
    mailbox name not allowed | recipient not found | recipient*not found | recipient*does not exist |
    recipient*doesn't exist | recipient not exist | recipient address rejected: undeliverable | unverified address |
    unrouteable address | unroutable address | undeliverable address | isn't listed | couldn't be found |
    could not be found | cannot be found | destinatario*sconosciuto | destinataire*invalide | unbekannt |
    kennt*nicht | existiert nicht | address rejected. | #5.1.1
no-such-domain: domain not found | domain does not exist | domain*does not exist | domain doesn't exist |
    unknown domain | domain unknown | find the recipient domain | no such domain | host not found | host unknown |
    unknown host | domain does not accept mail | nullmx | null mx
tls-required: starttls first | starttls command first | tls required | requires tls | require tls |
    requires starttls | must use tls | encryption required | encryption needed | connection is not encrypted |
    session encryption | over a tls | requiretls | tls is required
loop: too many hops | hop count | mail loop | loops back | routing loop | hopcount | loop detected
malformed: malformed | messageid header | message-id header | rfc 5322 | rfc5322 | rfc 2822 | rfc2822 |
    missing header | header missing | headers missing | multiple from | from header | from: header | bare lf |
    line too long | lines too long | bad header | invalid header | duplicate header
unsupported: smtputf8 | 8bitmime | not ascii | non-ascii
trouble 4: temporary | temporarily | try again | try later | come back later | insufficient | disk space |
    queue file write | configuration error | internal error | system problem | local problem | space shortage |
    local error | service unavailable | not available | lookup fail | shutting down
policy: policies | permanent failure for one or more | policy | prohibit | access denied | not authorized |
    not permitted | not allowed | rejected by | blocked | denied | refused | forbidden | restricted |
    no smtp service | rejected under | not accepted
"""
