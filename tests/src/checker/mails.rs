//! Mails: one per key, and out.

use std::collections::BTreeSet;

use super::{Allowed, Defect, Snapshot, Verdict};

/// Each mail once per key, and taken by the mail server, once where the fault does not explain a second time.
pub fn check(verdict: &mut Verdict, snapshot: &Snapshot, allowed: Allowed) {
    let mut keys = BTreeSet::new();
    for mail in &snapshot.mails {
        if !keys.insert((&mail.order, &mail.kind, &mail.key)) {
            verdict.duplicated += 1;
            let told = format!("mail {} of {}", mail.kind, mail.order);
            verdict.fail(Defect::Doubled(told));
        }
    }
    let Some(taken) = &snapshot.taken else {
        return;
    };
    let distinct: BTreeSet<&String> = taken.iter().collect();
    verdict.mails_doubled = taken.len() - distinct.len();
    if verdict.mails_doubled > allowed.mails_doubled {
        let defect = Defect::MailsDoubled(verdict.mails_doubled);
        verdict.fail(defect);
    }
    let sent = snapshot.mails.iter().filter(|mail| mail.sent).count();
    if sent != snapshot.mails.len() || sent != distinct.len() {
        let told = format!(
            "{} queued, {sent} noted as sent, {} taken",
            snapshot.mails.len(),
            distinct.len()
        );
        verdict.fail(Defect::Mails(told));
    }
}
