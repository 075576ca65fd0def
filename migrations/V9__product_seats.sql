-- Seats that are gone, counted as they go: a grant must not have to count every seat that was ever sold.

CREATE TABLE product_seats (
    product_id text    NOT NULL,
    active     integer NOT NULL DEFAULT 0,
    offered    integer NOT NULL DEFAULT 0,
    CONSTRAINT product_seats_pkey PRIMARY KEY (product_id),
    CONSTRAINT product_seats_product_fkey FOREIGN KEY (product_id) REFERENCES products (id) ON DELETE CASCADE,
    CONSTRAINT product_seats_not_negative CHECK (active >= 0 AND offered >= 0)
) WITH (fillfactor = 50);

INSERT INTO product_seats (product_id, active, offered)
SELECT product_id, count(*) FILTER (WHERE status = 'active'), count(*) FILTER (WHERE status = 'offered')
FROM registrations GROUP BY product_id;

-- Once per statement. Whoever changes a seat's status holds the lock of its product's seats, so that these rows are
-- locked in one order.
CREATE FUNCTION registrations_count() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO product_seats AS seats (product_id, active, offered)
        SELECT product_id, count(*) FILTER (WHERE status = 'active'), count(*) FILTER (WHERE status = 'offered')
        FROM come GROUP BY product_id ORDER BY product_id
        ON CONFLICT (product_id) DO UPDATE
        SET active = seats.active + excluded.active, offered = seats.offered + excluded.offered
        WHERE excluded.active <> 0 OR excluded.offered <> 0;
    ELSIF TG_OP = 'DELETE' THEN
        UPDATE product_seats seats SET active = seats.active - less.active, offered = seats.offered - less.offered
        FROM (SELECT product_id, count(*) FILTER (WHERE status = 'active') AS active,
                count(*) FILTER (WHERE status = 'offered') AS offered FROM gone GROUP BY product_id) less
        WHERE seats.product_id = less.product_id AND (less.active <> 0 OR less.offered <> 0);
    ELSE
        UPDATE product_seats seats SET active = seats.active + more.active, offered = seats.offered + more.offered
        FROM (SELECT product_id, sum(active) AS active, sum(offered) AS offered FROM (
                SELECT product_id, (status = 'active')::integer AS active, (status = 'offered')::integer AS offered FROM come
                UNION ALL
                SELECT product_id, -(status = 'active')::integer, -(status = 'offered')::integer FROM gone
            ) changed GROUP BY product_id) more
        WHERE seats.product_id = more.product_id AND (more.active <> 0 OR more.offered <> 0);
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER registrations_count_inserted AFTER INSERT ON registrations
    REFERENCING NEW TABLE AS come FOR EACH STATEMENT EXECUTE FUNCTION registrations_count();
CREATE TRIGGER registrations_count_updated AFTER UPDATE ON registrations
    REFERENCING NEW TABLE AS come OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION registrations_count();
CREATE TRIGGER registrations_count_deleted AFTER DELETE ON registrations
    REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION registrations_count();
