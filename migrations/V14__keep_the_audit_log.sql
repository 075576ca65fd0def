-- The audit log grows and never changes, whoever asks: no role has the right to, and the owner of the table, who has
-- every right, must take this away first.
CREATE FUNCTION audit_log_refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the audit log is kept as it is' USING ERRCODE = 'restrict_violation';
END
$$;

CREATE TRIGGER audit_log_keep BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_log
    FOR EACH STATEMENT EXECUTE FUNCTION audit_log_refuse_change();
