//! From content to a message as RFC 5322 has it.

use herald_contract::Event;
use lettre::Address;
use lettre::Message;
use lettre::message::header::{HeaderName, HeaderValue};
use lettre::message::{Mailbox, MultiPart, SinglePart};

use crate::template::Content;

const EVENT_ID: HeaderName = HeaderName::new_from_ascii_str("X-Herald-Event-Id");
/// RFC 3834 §5: nobody's vacation responder is to answer.
const AUTO_SUBMITTED: HeaderName = HeaderName::new_from_ascii_str("Auto-Submitted");

/// One mail, ready to be sent.
#[derive(Debug, Clone)]
pub struct Mail {
    pub from: Mailbox,
    pub to: Address,
    /// With its angle brackets. The same for every attempt at the same delivery, so that a mail
    /// that arrives twice can be told.
    pub message_id: String,
    pub content: Content,
    /// Names the delivery within its event.
    pub hash: u128,
    /// Headers and body with CRLF, in ASCII unless an address is not.
    pub bytes: Vec<u8>,
}

/// Builds the mail of one delivery.
///
/// # Errors
/// The parts do not make a message.
pub fn build(
    sink: &str,
    from: &Mailbox,
    to: Address,
    event: &Event,
    content: Content,
) -> Result<Mail, String> {
    let hash = fnv1a(&[sink.as_bytes(), b"\0", to.to_string().as_bytes()]);
    let message_id = format!(
        "<{}.{:016x}@{}>",
        event.event_id,
        hash & u128::from(u64::MAX),
        from.email.domain()
    );
    let event_id = event.event_id.to_string();
    let builder = Message::builder()
        .message_id(Some(message_id.clone()))
        .date_now()
        .from(from.clone())
        .to(Mailbox::new(None, to.clone()))
        .subject(content.subject.clone())
        .raw_header(HeaderValue::new(EVENT_ID, event_id))
        .raw_header(HeaderValue::new(AUTO_SUBMITTED, "auto-generated".into()));
    let message = match (
        content.text.as_deref().map(lines),
        content.html.as_deref().map(lines),
    ) {
        (Some(text), Some(html)) => {
            builder.multipart(MultiPart::alternative_plain_html(text, html))
        }
        (None, Some(html)) => builder.singlepart(SinglePart::html(html)),
        (text, None) => builder.singlepart(SinglePart::plain(text.unwrap_or_default())),
    };
    let message = message.map_err(|e| format!("the message cannot be built: {e}"))?;
    Ok(Mail {
        from: from.clone(),
        to,
        message_id,
        content,
        hash,
        bytes: message.formatted(),
    })
}

/// A line break is one of CRLF, CR and LF, and lettre writes it as CRLF. A CR left alone is where
/// servers disagree on the end of a message (RFC 5321 §2.3.8); NUL is not text (RFC 5322 §4.1).
fn lines(text: &str) -> String {
    text.replace("\r\n", "\n")
        .replace('\r', "\n")
        .replace('\0', "")
}

/// FNV-1a with 128 bits: the same on every machine and in every version.
fn fnv1a(parts: &[&[u8]]) -> u128 {
    const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    parts.iter().copied().flatten().fold(OFFSET, |hash, byte| {
        (hash ^ u128::from(*byte)).wrapping_mul(PRIME)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::tests::event;

    fn mail(to: &str, content: Content) -> Mail {
        let from = "Händler, GmbH <shop@example.com>".replace(',', "");
        let event = event("order.created", json!({}));
        let to = to.parse().expect("address");
        build("email", &from.parse().expect("sender"), to, &event, content).expect("builds")
    }

    fn content(subject: &str, text: Option<&str>, html: Option<&str>) -> Content {
        Content {
            subject: subject.into(),
            text: text.map(str::to_owned),
            html: html.map(str::to_owned),
        }
    }

    fn header<'a>(mail: &'a str, name: &str) -> Vec<&'a str> {
        let (headers, _) = mail.split_once("\r\n\r\n").expect("a body");
        let prefix = format!("{name}: ");
        headers
            .split("\r\n")
            .filter_map(|line| line.strip_prefix(prefix.as_str()))
            .collect()
    }

    #[test]
    fn a_mail_says_who_when_and_which_event() {
        let mail = mail("jane@example.org", content("Hello", Some("text"), None));
        let text = String::from_utf8(mail.bytes).expect("ASCII");
        assert!(text.is_ascii());
        assert_eq!(header(&text, "To"), ["jane@example.org"]);
        assert_eq!(header(&text, "Subject"), ["Hello"]);
        assert_eq!(header(&text, "Auto-Submitted"), ["auto-generated"]);
        assert_eq!(header(&text, "Message-ID"), [mail.message_id.as_str()]);
        assert_eq!(header(&text, "MIME-Version").len(), 1);
        assert_eq!(header(&text, "Date").len(), 1);
        assert_eq!(
            header(&text, "X-Herald-Event-Id"),
            [event("", json!({})).event_id.to_string()]
        );
    }

    #[test]
    fn every_attempt_has_the_same_message_id_and_every_recipient_another() {
        let id = |to: &str, text: &str| mail(to, content("s", Some(text), None)).message_id;
        assert_eq!(id("a@example.org", "1"), id("a@example.org", "2"));
        assert_ne!(id("a@example.org", "1"), id("b@example.org", "1"));
        assert!(id("a@example.org", "1").ends_with("@example.com>"));
    }

    #[test]
    fn a_line_break_in_a_subject_adds_no_header() {
        // Subjects arrive here as one line; this is the second wall.
        let mail = mail(
            "a@example.org",
            content("Hi\r\nBcc: evil@example.org\nX-Evil: 1", Some("t"), None),
        );
        let text = String::from_utf8(mail.bytes).expect("ASCII");
        assert_eq!(header(&text, "Bcc"), [""; 0]);
        assert_eq!(header(&text, "X-Evil"), [""; 0]);
    }

    #[test]
    fn html_goes_beside_the_text() {
        let both = mail("a@example.org", content("s", Some("t"), Some("<p>h</p>")));
        let both = String::from_utf8(both.bytes).expect("ASCII");
        let plain = both.find("text/plain").expect("text");
        let html = both.find("text/html").expect("HTML");
        assert!(both.contains("multipart/alternative") && plain < html);
        let alone = mail("a@example.org", content("s", None, Some("<p>h</p>")));
        let alone = String::from_utf8(alone.bytes).expect("ASCII");
        assert!(alone.contains("text/html") && !alone.contains("multipart"));
    }

    #[test]
    fn lines_stay_within_what_smtp_carries() {
        let long = "wörd ".repeat(1000);
        for text in [long.as_str(), &"x".repeat(5000), "a\n.\nb\n", "a\r.\rb\0"] {
            let mail = mail("a@example.org", content(&long, Some(text), None));
            let mail = String::from_utf8(mail.bytes).expect("ASCII");
            assert!(mail.is_ascii());
            // RFC 5321 §4.5.3.1.6.
            assert!(mail.split("\r\n").all(|line| line.len() <= 998));
            assert!(!mail.replace("\r\n", "").contains(['\r', '\n', '\0']));
        }
    }
}
