//! What must hold for any bytes: for the fuzz targets in `fuzz`, and for a short seeded run with every test.

use gateway::envelope::Envelope;
use serde_json::Value;
use shared::signature::{SigningKey, verify};

const NOW: i64 = 1_760_000_000;
const TOLERANCE_S: u64 = 300;

/// No header verifies that does not hold the right digest, and nothing that is added to a right one keeps it from
/// verifying. The bytes are a header and a body, separated by a zero.
pub fn header(data: &[u8]) {
    let mut parts = data.splitn(2, |byte| *byte == 0);
    let (header, body) = (
        parts.next().unwrap_or_default(),
        parts.next().unwrap_or_default(),
    );
    let header = String::from_utf8_lossy(header);
    let key = SigningKey::new("whsec_fuzz");
    let right = key.sign(NOW, body);
    if verify(&header, body, std::slice::from_ref(&key), NOW, TOLERANCE_S).is_ok() {
        let times = header.split(',').filter_map(|item| item.strip_prefix("t="));
        let times: Vec<i64> = times.filter_map(|time| time.parse().ok()).collect();
        assert_eq!(times.len(), 1, "{header}");
        let signed = key.sign(times[0], body);
        let digest = signed.split("v1=").nth(1).unwrap();
        assert!(header.contains(digest), "{header}");
        assert!(times[0].abs_diff(NOW) <= TOLERANCE_S, "{header}");
    }
    let noise: String = header.chars().filter(|c| *c != ',').collect();
    let noisy = format!("{right},v0={noise},v1={noise}");
    let verified = verify(&noisy, body, &[key], NOW, TOLERANCE_S);
    assert_eq!(verified, Ok(()), "{noisy}");
}

/// An envelope is read exactly where another reader finds an object with a usable id and type, and says the same.
pub fn envelope(data: &[u8]) {
    let read = Envelope::read(data);
    if let Ok(envelope) = &read {
        for text in [&envelope.id, &envelope.event_type] {
            assert!(!text.is_empty() && text.len() <= 255, "{envelope:?}");
            assert!(!text.contains(char::is_control), "{envelope:?}");
        }
    }
    // The other reader stops at a depth that this one does not mind.
    let Ok(value) = serde_json::from_slice::<Value>(data) else {
        return;
    };
    let text = |name: &str| {
        let text = value.get(name)?.as_str()?;
        let proper = !text.is_empty() && text.len() <= 255 && !text.contains(char::is_control);
        proper.then(|| text.to_owned())
    };
    let expected = text("id").zip(text("type"));
    let found = read.ok().map(|envelope| (envelope.id, envelope.event_type));
    assert_eq!(found, expected, "{value}");
}
