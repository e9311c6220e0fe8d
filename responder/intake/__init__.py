"""The first stage: whom mail is for, who may send it, and the durable accept that makes us answerable for it."""
