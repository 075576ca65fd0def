//! Seats: granted within the capacity, given back, held for a while, offered to the waitlist. Every change of a
//! registration is made under the lock of its product's seats.

use std::time::Duration;

use deadpool_postgres::Transaction;
use jiff::Timestamp;

use super::super::{Notice, NoticeKind, NoticeTicket, Order};
use super::notices::{Mail, notice, queue_mail};
use super::{SeatTimes, find, find_for_update};
use crate::database::{StoreError, execute, query, query_both, query_opt};
use crate::orders::store::OrderKey;

/// Offers made in one transaction; the next round makes more.
const MOST_OFFERS: usize = 100;

/// Locks the seats of every product of an order, in one order for all.
const LOCK: &str = "
    SELECT product_id, pg_advisory_xact_lock(hashtextextended(product_id, 1))::text
    FROM (SELECT DISTINCT product_id FROM registrations WHERE order_id = $1 ORDER BY product_id) seats";

fn lock_statement() -> &'static str {
    if crate::sabotaged!("seat_lock") {
        "SELECT DISTINCT product_id FROM registrations WHERE order_id = $1"
    } else {
        LOCK
    }
}

async fn lock(tx: &Transaction<'_>, order_id: &str) -> Result<Vec<String>, StoreError> {
    Ok(query(tx, lock_statement(), &[&order_id])
        .await?
        .iter()
        .map(|row| row.get(0))
        .collect())
}

/// What came of an order to be granted.
pub enum Granted {
    /// All of it, and what to tell the buyer.
    Everything(Notice),
    /// Nothing, and why.
    Nothing(&'static str),
}

/// Every seat of the order becomes active and gets one ticket, if all of them are there; every course is granted to the
/// buyer once.
pub async fn grant(tx: &Transaction<'_>, order: &Order) -> Result<Granted, StoreError> {
    let has_courses = order.items.iter().any(|item| item.is_course);
    // Shops may write orders of their own: not every one went through the check of a cart.
    if has_courses && order.user_id.is_none() {
        return Ok(Granted::Nothing(
            "paid, but its course has no account to belong to",
        ));
    }
    let Some(tickets) = lock_and_activate(tx, order).await? else {
        return Ok(Granted::Nothing("paid, but the seats are gone"));
    };
    if let (true, Some(user_id)) = (has_courses, &order.user_id) {
        grant_courses(tx, &order.id, user_id).await?;
    }
    let notice = notice(order);
    Ok(Granted::Everything(Notice { tickets, ..notice }))
}

/// Locks the seats of the order's products, then activates those that are not active yet, all of them or none: what
/// others took meanwhile is seen. None where some are not there any more.
async fn lock_and_activate(
    tx: &Transaction<'_>,
    order: &Order,
) -> Result<Option<Vec<NoticeTicket>>, StoreError> {
    // Offers to this order are seats that it may take.
    const ACTIVATE: &str = "
        WITH wanted AS (
            SELECT product_id, count(*) AS seats, count(*) FILTER (WHERE status = 'offered') AS offered
            FROM registrations WHERE order_id = $1 AND status <> 'active' GROUP BY product_id
        ), lacking AS (
            SELECT FROM wanted JOIN products product ON product.id = wanted.product_id
            LEFT JOIN product_seats gone ON gone.product_id = wanted.product_id
            WHERE product.capacity < wanted.seats - wanted.offered + coalesce(gone.active + gone.offered, 0)
        ), active AS (
            UPDATE registrations registration SET status = 'active', offered_until = NULL FROM products product
            WHERE order_id = $1 AND status <> 'active' AND product.id = product_id AND NOT EXISTS (SELECT FROM lacking)
            RETURNING registration.id, product.name
        ), ticket AS (
            SELECT active.id, active.name, given.code
            FROM (SELECT *, row_number() OVER (ORDER BY id) AS number FROM active) active
            JOIN unnest($2::text[]) WITH ORDINALITY AS given (code, number) USING (number)
        ), issued AS (
            INSERT INTO tickets (registration_id, order_id, code) SELECT id, $1, code FROM ticket
        )
        SELECT name, code, EXISTS (SELECT FROM lacking) AS lacking
        FROM (VALUES (true)) AS always LEFT JOIN ticket ON true ORDER BY ticket.id";
    let codes: Vec<String> = (0..order.seats).map(|_| ticket_code()).collect();
    let (_, rows) = query_both(
        tx,
        (lock_statement(), &[&order.id]),
        (ACTIVATE, &[&order.id, &codes]),
    )
    .await?;
    if rows.iter().any(|row| row.get("lacking")) {
        return Ok(None);
    }
    let ticket = |row: &tokio_postgres::Row| {
        Some(NoticeTicket {
            name: row.get::<_, Option<String>>("name")?,
            code: row.get::<_, Option<String>>("code")?,
        })
    };
    Ok(Some(rows.iter().filter_map(ticket).collect()))
}

async fn grant_courses(
    tx: &Transaction<'_>,
    order_id: &str,
    user_id: &str,
) -> Result<(), StoreError> {
    const GRANT: &str = "
        INSERT INTO course_purchases (user_id, course_id, order_id)
        SELECT $2, item.product_id, $1 FROM order_items item JOIN products product ON product.id = item.product_id
        WHERE item.order_id = $1 AND product.kind = 'course'
        ON CONFLICT (user_id, course_id) DO NOTHING";
    lock_courses(tx, user_id).await?;
    execute(tx, GRANT, &[&order_id, &user_id]).await?;
    Ok(())
}

/// The order's seats are free, its tickets void, its courses gone; whoever waits for such seats gets an offer.
pub async fn give_back(
    tx: &Transaction<'_>,
    order_id: &str,
    offer: Duration,
) -> Result<(), StoreError> {
    const CANCEL: &str = "
        UPDATE registrations SET status = 'cancelled', offered_until = NULL
        WHERE order_id = $1 AND status <> 'cancelled'";
    const VOID: &str =
        "UPDATE tickets SET status = 'void' WHERE order_id = $1 AND status <> 'void'";
    let products = lock(tx, order_id).await?;
    execute(tx, CANCEL, &[&order_id]).await?;
    execute(tx, VOID, &[&order_id]).await?;
    take_courses(tx, order_id).await?;
    for product in &products {
        offer_free_seats(tx, product, offer).await?;
    }
    Ok(())
}

/// Two orders of one buyer may be about the same course. Locked after the seats; what follows sees what was committed.
async fn lock_courses(tx: &Transaction<'_>, user_id: &str) -> Result<(), StoreError> {
    const LOCK: &str = "SELECT pg_advisory_xact_lock(hashtextextended($1, 2))";
    execute(tx, LOCK, &[&user_id]).await?;
    Ok(())
}

/// The order's courses are taken back, unless the buyer paid for them with another order too, whatever else a person
/// still has to decide about that one: it is entitled as `Order::entitlement` says.
async fn take_courses(tx: &Transaction<'_>, order_id: &str) -> Result<(), StoreError> {
    const BUYER: &str = "SELECT user_id FROM orders WHERE id = $1 AND user_id IS NOT NULL";
    const TAKE: &str =
        "DELETE FROM course_purchases WHERE order_id = $1 RETURNING user_id, course_id";
    const KEEP: &str = "
        INSERT INTO course_purchases (user_id, course_id, order_id)
        SELECT other.user_id, item.product_id, other.id
        FROM orders other JOIN order_items item ON item.order_id = other.id
        WHERE other.user_id = $1 AND item.product_id = $2 AND other.id <> $3 AND NOT other.unfulfillable
            AND EXISTS (SELECT FROM payments WHERE order_id = other.id AND succeeded AND dispute <> 'lost'
                AND NOT (refunded_cents > 0 AND refunded_cents >= amount_cents))
        LIMIT 1 ON CONFLICT (user_id, course_id) DO NOTHING";
    let Some(buyer) = query_opt(tx, BUYER, &[&order_id]).await? else {
        return Ok(());
    };
    lock_courses(tx, buyer.get(0)).await?;
    for row in query(tx, TAKE, &[&order_id]).await? {
        let (user_id, course_id): (String, String) = (row.get(0), row.get(1));
        execute(tx, KEEP, &[&user_id, &course_id, &order_id]).await?;
    }
    Ok(())
}

/// Offers free seats to the waitlist, first come first served, whole orders only. The product's seats are locked.
async fn offer_free_seats(
    tx: &Transaction<'_>,
    product_id: &str,
    offer: Duration,
) -> Result<(), StoreError> {
    const OFFER: &str = "
        WITH first AS (
            SELECT order_id, count(*) AS seats FROM registrations WHERE product_id = $1 AND status = 'waitlisted'
            GROUP BY order_id ORDER BY min(id) LIMIT 1
        )
        UPDATE registrations registration
        SET status = 'offered', offered_until = now() + make_interval(secs => $2)
        FROM first, products product
        WHERE product.id = $1 AND registration.order_id = first.order_id AND registration.product_id = $1
            AND registration.status = 'waitlisted'
            AND (product.capacity IS NULL OR product.capacity >= first.seats + (
                SELECT count(*) FROM registrations taken
                WHERE taken.product_id = $1 AND taken.status IN ('pending', 'active', 'offered')))
        RETURNING registration.order_id, registration.offered_until";
    for _ in 0..MOST_OFFERS {
        let offered = query(tx, OFFER, &[&product_id, &offer.as_secs_f64()]).await?;
        let Some(seat) = offered.first() else {
            return Ok(());
        };
        tell_offer(tx, seat.get(0), product_id, seat.get(1)).await?;
    }
    Ok(())
}

/// The order is read without a lock: only its registrations change, which are under the lock of their seats.
async fn tell_offer(
    tx: &Transaction<'_>,
    order_id: &str,
    product_id: &str,
    until: Timestamp,
) -> Result<(), StoreError> {
    let order = find(tx, order_id).await?;
    let order = order.ok_or(StoreError::Rejected("a registration without its order"))?;
    let mail = Mail {
        kind: NoticeKind::SeatOffered,
        key: format!("{product_id}:{}", until.as_second()),
        notice: Notice {
            until: Some(until.strftime("%Y-%m-%d %H:%M UTC").to_string()),
            ..notice(&order)
        },
    };
    queue_mail(tx, &order, &mail).await
}

/// Gives back the seats of one order whose hold is over. False when there is none.
pub async fn end_hold(tx: &Transaction<'_>, times: SeatTimes) -> Result<bool, StoreError> {
    const OVER: &str = "
        UPDATE orders SET held_until = NULL WHERE id = (
            SELECT id FROM orders WHERE held_until < now() ORDER BY held_until LIMIT 1
            FOR NO KEY UPDATE SKIP LOCKED)
        RETURNING id";
    let Some(row) = query_opt(tx, OVER, &[]).await? else {
        return Ok(false);
    };
    give_back(tx, row.get(0), times.offer).await?;
    Ok(true)
}

/// Passes on one offer that was not taken. False when there is none.
pub async fn end_offer(tx: &Transaction<'_>, times: SeatTimes) -> Result<bool, StoreError> {
    const OVER: &str = "
        SELECT order_id, product_id FROM registrations WHERE status = 'offered' AND offered_until < now()
        ORDER BY offered_until LIMIT 1";
    const CANCEL: &str = "
        UPDATE registrations SET status = 'cancelled', offered_until = NULL
        WHERE order_id = $1 AND product_id = $2 AND status = 'offered' AND offered_until < now()";
    let Some(row) = query_opt(tx, OVER, &[]).await? else {
        return Ok(false);
    };
    let (order_id, product_id): (String, String) = (row.get(0), row.get(1));
    // The order first: its payment may be on its way in.
    find_for_update(
        tx,
        &OrderKey {
            ids: vec![order_id.clone()],
            references: Vec::new(),
        },
    )
    .await?;
    lock(tx, &order_id).await?;
    execute(tx, CANCEL, &[&order_id, &product_id]).await?;
    offer_free_seats(tx, &product_id, times.offer).await?;
    Ok(true)
}

/// Offers free seats of one product that has them and a waitlist, as after its capacity was raised. False when there is
/// none, or what is free does not suffice for the first in line.
pub async fn offer_left_over(tx: &Transaction<'_>, times: SeatTimes) -> Result<bool, StoreError> {
    const LEFT_OVER: &str = "
        WITH first AS (
            SELECT DISTINCT ON (product_id) product_id, order_id FROM registrations WHERE status = 'waitlisted'
            ORDER BY product_id, id
        )
        SELECT product.id FROM first JOIN products product ON product.id = first.product_id
        WHERE product.capacity IS NULL OR product.capacity >= (
            SELECT count(*) FROM registrations seat WHERE seat.product_id = product.id
                AND (seat.status IN ('pending', 'active', 'offered')
                    OR (seat.status = 'waitlisted' AND seat.order_id = first.order_id)))
        LIMIT 1";
    const LOCK: &str = "SELECT pg_advisory_xact_lock(hashtextextended($1, 1))";
    let Some(row) = query_opt(tx, LEFT_OVER, &[]).await? else {
        return Ok(false);
    };
    let product_id: String = row.get(0);
    execute(tx, LOCK, &[&product_id]).await?;
    offer_free_seats(tx, &product_id, times.offer).await?;
    Ok(true)
}

/// 125 random bits in groups that people can read out.
fn ticket_code() -> String {
    const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
    let random: [u8; 25] = rand::random();
    let letter = |byte: &u8| char::from(ALPHABET[usize::from(byte % 32)]);
    let letters: Vec<char> = random.iter().map(letter).collect();
    letters
        .chunks(5)
        .map(String::from_iter)
        .collect::<Vec<_>>()
        .join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticket_codes_are_readable_and_do_not_repeat() {
        let codes: std::collections::HashSet<String> = (0..10_000).map(|_| ticket_code()).collect();
        assert_eq!(codes.len(), 10_000);
        let readable = |code: &String| code.split('-').all(|group| group.len() == 5);
        assert!(codes.iter().all(|code| code.len() == 29 && readable(code)));
    }
}
