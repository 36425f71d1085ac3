-- The certificates of a thing, from the index alone. Without the certificate in it SQLite
-- takes the primary key for such a look-up, along all of a tenant's attachments.

DROP INDEX thing_principals_thing;
CREATE INDEX thing_principals_thing ON thing_principals (tenant, thing, certificate);

-- The clients of a thing, in their order, likewise.
DROP INDEX presence_thing;
CREATE INDEX presence_thing ON presence (tenant, thing, client);

-- And the things of a device.
DROP INDEX things_holder;
CREATE INDEX things_holder ON things (tenant, holder, folded);
