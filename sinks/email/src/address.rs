//! Addresses in the text that a template or a payload gives, and their form in the ledger.

use lettre::Address;
use lettre::message::Mailbox;

/// The ledger's bound for a recipient's key, in bytes.
const MAX_KEY: usize = 512;
/// The longest address, in bytes: RFC 5321 §4.5.3.1.3, without the angle brackets.
const MAX_ADDRESS: usize = 254;

/// The items of an address list (RFC 5322 §3.4): between commas that are not in quotes or angle
/// brackets. A line break separates too, for templates that write one address a line.
pub fn split(list: &str) -> Vec<&str> {
    let mut items = Vec::new();
    let (mut from, mut quoted, mut angle, mut escaped) = (0, false, false, false);
    for (at, c) in list.char_indices() {
        if std::mem::take(&mut escaped) {
            continue;
        }
        match c {
            '\n' | '\r' => (quoted, angle) = (false, false),
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            '<' if !quoted => angle = true,
            '>' if !quoted => angle = false,
            _ => {}
        }
        if matches!(c, '\n' | '\r') || (c == ',' && !quoted && !angle) {
            items.push(&list[from..at]);
            from = at + c.len_utf8();
        }
    }
    items.push(&list[from..]);
    items
}

/// The ledger's key of one item: the address with its domain in lower case, or what stands there
/// in its place.
pub fn key(item: &str) -> String {
    let item = item.trim();
    let address = match item.parse::<Mailbox>() {
        Ok(mailbox) => Some(mailbox.email),
        Err(_) => item.parse::<Address>().ok(),
    };
    if let Some(address) = address {
        let key = format!("{}@{}", address.user(), address.domain().to_lowercase());
        if parse_key(&key).is_ok() {
            return key;
        }
    }
    let mut key: String = item.chars().filter(|c| !c.is_control()).collect();
    key.truncate(key.floor_char_boundary(MAX_KEY));
    key
}

/// The address that a recipient's key stands for.
///
/// # Errors
/// It is not one.
pub fn parse_key(key: &str) -> Result<Address, String> {
    if key.len() > MAX_ADDRESS {
        return Err(format!("longer than {MAX_ADDRESS} bytes"));
    }
    if key.contains(char::is_control) {
        return Err("it contains control characters".to_owned());
    }
    key.parse::<Address>().map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(list: &str) -> Vec<String> {
        split(list).into_iter().map(key).collect()
    }

    #[test]
    fn commas_and_line_breaks_separate_but_not_within_a_name() {
        let list = "\"Doe, \\\"J, \" <jane@example.com>,joe@example.com\r\nann@example.com";
        assert_eq!(
            keys(list),
            ["jane@example.com", "joe@example.com", "", "ann@example.com"]
        );
    }

    #[test]
    fn only_the_domain_is_the_same_in_either_case() {
        assert_eq!(keys("Jane@EXAMPLE.Com"), ["Jane@example.com"]);
    }

    #[test]
    fn what_is_no_address_stays_a_recipient_of_its_own() {
        let found = keys("good@example.com, not an address\u{7}");
        assert_eq!(found, ["good@example.com", "not an address"]);
        assert!(parse_key(&found[0]).is_ok());
        assert!(parse_key(&found[1]).is_err());

        let long = format!("{}@example.com", "é".repeat(400));
        let found = keys(&long);
        assert!(found[0].len() <= MAX_KEY && parse_key(&found[0]).is_err());
        assert!(parse_key("a@example.com>\r\nRCPT TO:<b@example.com").is_err());
    }
}
