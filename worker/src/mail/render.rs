//! A mail's text and HTML from its facts. Pure. Templates are checked when the program is compiled.

use askama::Template;
use lettre::Message;
use lettre::message::header::ContentType;
use lettre::message::{Attachment, Mailbox, MultiPart, SinglePart};
use sha2::{Digest, Sha256};
use shared::orders::{Notice, NoticeKind};

use super::qr::{self, QrPictureError};

/// A mail that cannot be made from its row, ever.
#[derive(Debug, thiserror::Error)]
pub enum RenderError {
    /// Not an e-mail address.
    #[error("the recipient is not an e-mail address")]
    Recipient,
    /// A template failed.
    #[error("template: {0}")]
    Template(#[from] askama::Error),
    /// A ticket's picture cannot be made.
    #[error(transparent)]
    Picture(#[from] QrPictureError),
    /// A header or part is impossible.
    #[error("mail: {0}")]
    Message(#[from] lettre::error::Error),
}

#[derive(Template)]
#[template(path = "order_paid.txt")]
struct OrderPaidText<'a>(&'a Notice);

#[derive(Template)]
#[template(path = "order_paid.html")]
struct OrderPaidHtml<'a>(&'a Notice);

#[derive(Template)]
#[template(path = "payment_failed.txt")]
struct PaymentFailedText<'a>(&'a Notice);

#[derive(Template)]
#[template(path = "payment_failed.html")]
struct PaymentFailedHtml<'a>(&'a Notice);

#[derive(Template)]
#[template(path = "order_refunded.txt")]
struct OrderRefundedText<'a>(&'a Notice);

#[derive(Template)]
#[template(path = "order_refunded.html")]
struct OrderRefundedHtml<'a>(&'a Notice);

#[derive(Template)]
#[template(path = "partly_refunded.txt")]
struct PartlyRefundedText<'a>(&'a Notice);

#[derive(Template)]
#[template(path = "partly_refunded.html")]
struct PartlyRefundedHtml<'a>(&'a Notice);

#[derive(Template)]
#[template(path = "seat_offered.txt")]
struct SeatOfferedText<'a>(&'a Notice);

#[derive(Template)]
#[template(path = "seat_offered.html")]
struct SeatOfferedHtml<'a>(&'a Notice);

#[derive(Template)]
#[template(path = "invoice_failed.txt")]
struct InvoiceFailedText<'a>(&'a Notice);

#[derive(Template)]
#[template(path = "invoice_failed.html")]
struct InvoiceFailedHtml<'a>(&'a Notice);

/// Subject, text and HTML.
fn parts(
    kind: NoticeKind,
    notice: &Notice,
) -> Result<(&'static str, String, String), askama::Error> {
    Ok(match kind {
        NoticeKind::OrderPaid => (
            "Your order is confirmed",
            OrderPaidText(notice).render()?,
            OrderPaidHtml(notice).render()?,
        ),
        NoticeKind::PaymentFailed => (
            "Your payment failed",
            PaymentFailedText(notice).render()?,
            PaymentFailedHtml(notice).render()?,
        ),
        NoticeKind::OrderRefunded => (
            "Your order was refunded",
            OrderRefundedText(notice).render()?,
            OrderRefundedHtml(notice).render()?,
        ),
        NoticeKind::PartlyRefunded => (
            "Part of your order was refunded",
            PartlyRefundedText(notice).render()?,
            PartlyRefundedHtml(notice).render()?,
        ),
        NoticeKind::SeatOffered => (
            "A seat is free for you",
            SeatOfferedText(notice).render()?,
            SeatOfferedHtml(notice).render()?,
        ),
        NoticeKind::InvoiceFailed => (
            "Your invoice could not be paid",
            InvoiceFailedText(notice).render()?,
            InvoiceFailedHtml(notice).render()?,
        ),
    })
}

/// The mail and its name: the local part of its Message-ID, which is the same however often it is made.
pub fn render(
    from: &Mailbox,
    recipient: &str,
    kind: NoticeKind,
    key: &str,
    notice: &Notice,
) -> Result<(String, Message), RenderError> {
    let to: Mailbox = recipient.parse().map_err(|_| RenderError::Recipient)?;
    let (subject, text, html) = parts(kind, notice)?;
    let name = name(kind, &notice.order_id, key);
    let message = Message::builder()
        .from(from.clone())
        .to(to)
        .subject(format!(
            "{subject}: {}",
            notice.order_id.replace(['\r', '\n'], " ")
        ))
        .message_id(Some(format!("<{name}@{}>", from.email.domain())))
        .multipart(with_pictures(text, html, notice)?)?;
    Ok((name, message))
}

/// Text and HTML; with tickets, their QR codes too: shown in the HTML, and attached for clients that show none.
fn with_pictures(text: String, html: String, notice: &Notice) -> Result<MultiPart, RenderError> {
    if notice.tickets.is_empty() {
        return Ok(MultiPart::alternative_plain_html(text, html));
    }
    let png = ContentType::parse("image/png").unwrap_or(ContentType::TEXT_PLAIN);
    let mut related = MultiPart::related().singlepart(SinglePart::html(html));
    let mut attached = Vec::new();
    for (place, ticket) in notice.tickets.iter().enumerate() {
        let picture = qr::picture(&ticket.code)?;
        let inline = Attachment::new_inline(format!("ticket-{place}"));
        related = related.singlepart(inline.body(picture.clone(), png.clone()));
        let file = Attachment::new(format!("ticket-{}.png", ticket.code));
        attached.push(file.body(picture, png.clone()));
    }
    let alternative = MultiPart::alternative()
        .singlepart(SinglePart::plain(text))
        .multipart(related);
    let mixed = MultiPart::mixed().multipart(alternative);
    Ok(attached.into_iter().fold(mixed, MultiPart::singlepart))
}

fn name(kind: NoticeKind, order_id: &str, key: &str) -> String {
    // Lengths keep ("a", "bc") and ("ab", "c") apart.
    let identity = format!("{}|{}|{order_id}|{key}", kind.as_str(), order_id.len());
    format!(
        "{}.{}",
        kind.as_str(),
        hex::encode(&Sha256::digest(identity)[..16])
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared::orders::{NoticeItem, NoticeTicket};

    fn notice() -> Notice {
        Notice {
            order_id: "ord_1".to_owned(),
            amount: "50.00 USD".to_owned(),
            items: vec![NoticeItem {
                name: "General <admission>".to_owned(),
                quantity: 2,
            }],
            tickets: vec![NoticeTicket {
                name: "General <admission>".to_owned(),
                code: "AAAAA-BBBBB".to_owned(),
            }],
            reason: Some("Your card was declined.".to_owned()),
            until: Some("2026-12-24 18:00 UTC".to_owned()),
        }
    }

    fn formatted(kind: NoticeKind) -> String {
        let from = "Shop <shop@example.com>".parse().unwrap();
        let (_, mail) = render(&from, "buyer@example.com", kind, "", &notice()).unwrap();
        String::from_utf8(mail.formatted())
            .unwrap()
            .replace("=\r\n", "")
    }

    #[test]
    fn each_mail_tells_its_facts_in_text_and_html() {
        for (kind, facts) in [
            (
                NoticeKind::OrderPaid,
                ["ord_1", "50.00 USD", "AAAAA-BBBBB", "2 =C3=97"],
            ),
            (
                NoticeKind::PaymentFailed,
                ["ord_1", "50.00 USD", "Your card was declined.", "text/html"],
            ),
            (
                NoticeKind::InvoiceFailed,
                ["ord_1", "50.00 USD", "text/plain", "text/html"],
            ),
            (
                NoticeKind::PartlyRefunded,
                ["ord_1", "50.00 USD", "text/plain", "text/html"],
            ),
            (
                NoticeKind::SeatOffered,
                ["ord_1", "50.00 USD", "2026-12-24 18:00 UTC", "2 =C3=97"],
            ),
            (
                NoticeKind::OrderRefunded,
                ["ord_1", "50.00 USD", "text/plain", "text/html"],
            ),
        ] {
            let mail = formatted(kind);
            for fact in facts {
                assert!(mail.contains(fact), "{kind:?} lacks {fact}:\n{mail}");
            }
        }
    }

    #[test]
    fn html_escapes_what_the_shop_wrote() {
        let mail = formatted(NoticeKind::OrderPaid);
        assert!(
            mail.contains("General &#60;admission&#62;") && mail.contains("General <admission>"),
            "{mail}"
        );
    }

    #[test]
    fn the_message_id_depends_on_kind_order_and_key_only() {
        let id = |mail: &str| {
            mail.lines()
                .find(|line| line.starts_with("Message-ID"))
                .unwrap()
                .to_owned()
        };
        assert_eq!(
            id(&formatted(NoticeKind::OrderPaid)),
            id(&formatted(NoticeKind::OrderPaid))
        );
        assert_ne!(
            id(&formatted(NoticeKind::OrderPaid)),
            id(&formatted(NoticeKind::OrderRefunded))
        );
        assert_ne!(
            name(NoticeKind::OrderPaid, "a", "bc"),
            name(NoticeKind::OrderPaid, "ab", "c")
        );
    }

    #[test]
    fn a_recipient_that_is_no_address_is_refused() {
        let from = "shop@example.com".parse().unwrap();
        for recipient in ["", "nobody", "a@b\r\nBcc: c@d"] {
            assert!(matches!(
                render(&from, recipient, NoticeKind::OrderPaid, "", &notice()),
                Err(RenderError::Recipient)
            ));
        }
    }
}
