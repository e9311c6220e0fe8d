-- Version 4: what leaves keeps a pace, may be refused in advance, and keeps to TLS where its sender asks for that.

ALTER TABLE mail ADD COLUMN requiretls INTEGER NOT NULL DEFAULT 0;      -- RFC 8689: it came with REQUIRETLS
ALTER TABLE outbound ADD COLUMN requiretls INTEGER NOT NULL DEFAULT 0;  -- and so it leaves
