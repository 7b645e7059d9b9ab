//! What a push says: templates over the event, made to fit one message.
//!
//! The plaintext is a JSON object that the page's service worker shows: `title`, `body`, `url`
//! (when there is one), `eventId`, `aggregateId`, `tenantId` and `type`.

use herald_contract::{Event, Fault, TypeFilter};
use minijinja::{Environment, UndefinedBehavior, Value, escape_formatter};
use ring::digest::{SHA256, digest};
use serde::Serialize;
use ulid::Ulid;

use crate::base64url;
use crate::config::Config;
use crate::encrypt::MAX_PLAINTEXT;
use crate::shorten::{json_length, shorten};

/// Bounds within the JSON text, in bytes, that leave the body more than a third of the message.
const MAX_TITLE: usize = 512;
const MAX_URL: usize = 1024;
/// Of a payload without text of its own, this much is shown, in bytes.
const MAX_PAYLOAD: usize = 240;
/// RFC 8030 §5.4.
const MAX_TOPIC: usize = 32;

const USER: &str = "user";

/// The compiled templates of one sink.
#[derive(Debug)]
pub struct Messages {
    templates: Environment<'static>,
    /// The types of each `[[templates]]`, in their order.
    types: Vec<TypeFilter>,
    by_user: bool,
}

/// What is pushed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// JSON, at most [`MAX_PLAINTEXT`] bytes.
    pub plaintext: Vec<u8>,
    /// Fit for the `Topic` header.
    pub topic: Option<String>,
}

/// Whose browsers an event is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Audience {
    Tenant,
    User(String),
    Nobody,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Notification<'a> {
    title: &'a str,
    body: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<&'a str>,
    event_id: Ulid,
    aggregate_id: i64,
    tenant_id: &'a str,
    #[serde(rename = "type")]
    kind: &'a str,
}

impl Messages {
    /// Compiles the configuration's templates.
    ///
    /// # Errors
    /// Each template that is malformed, by its key.
    pub fn new(config: &Config) -> Result<Self, Vec<Fault>> {
        let mut messages = Self {
            templates: environment(),
            types: Vec::new(),
            by_user: config.user.is_some(),
        };
        let mut faults = Vec::new();
        if let Some(user) = &config.user {
            if user.trim().is_empty() {
                faults.push(Fault::new(
                    USER,
                    "is empty, which is nobody; leave it out to push to all of a tenant's browsers",
                ));
            }
            messages.add(USER.into(), user, &mut faults);
        }
        for (index, template) in config.templates.iter().enumerate() {
            let types = template.types.iter().map(String::as_str);
            // What is wrong with the types is told by the configuration, beside its other faults.
            messages
                .types
                .push(TypeFilter::from_items(types).unwrap_or_default());
            for (name, text) in [
                ("title", &template.title),
                ("body", &template.body),
                ("url", &template.url),
                ("topic", &template.topic),
            ] {
                messages.add(format!("templates[{index}].{name}"), text, &mut faults);
            }
        }
        if faults.is_empty() {
            Ok(messages)
        } else {
            Err(faults)
        }
    }

    /// Whose browsers the event is for.
    ///
    /// # Errors
    /// The `user` template fails on this event, and would again.
    pub fn audience(&self, event: &Event) -> Result<Audience, String> {
        if !self.by_user {
            return Ok(Audience::Tenant);
        }
        let user = self.text(USER, &context(event)?)?;
        Ok(match user.trim() {
            "" => Audience::Nobody,
            user => Audience::User(user.to_owned()),
        })
    }

    /// What is pushed for the event. A body that is too long is shortened, a title too; a `url`
    /// that is too long is left out, since half of one leads nowhere.
    ///
    /// # Errors
    /// A template fails on this event, and would again.
    pub fn render(&self, event: &Event) -> Result<Message, String> {
        let context = context(event)?;
        let chosen = self.types.iter().position(|t| t.matches(&event.kind));
        let field = |name: &str| match chosen {
            Some(index) => self.text(&format!("templates[{index}].{name}"), &context),
            None => Ok(String::new()),
        };
        let mut title = field("title")?;
        if title.trim().is_empty() {
            title = event.kind.to_string();
        }
        let mut body = field("body")?;
        if body.is_empty() {
            body = default_body(event);
        }
        let url = field("url")?;
        let url = url.trim();
        let mut notification = Notification {
            title: &shorten(&title, MAX_TITLE),
            body: "",
            url: (!url.is_empty() && json_length(url) <= MAX_URL).then_some(url),
            event_id: event.event_id,
            aggregate_id: event.aggregate_id,
            tenant_id: &event.tenant_id,
            kind: &event.kind,
        };
        let encode = |n: &Notification| serde_json::to_vec(n).map_err(|e| e.to_string());
        let room = MAX_PLAINTEXT.saturating_sub(encode(&notification)?.len());
        let body = shorten(&body, room);
        notification.body = &body;
        Ok(Message {
            plaintext: encode(&notification)?,
            topic: topic(field("topic")?.trim()),
        })
    }

    fn add(&mut self, key: String, text: &str, faults: &mut Vec<Fault>) {
        let added = self
            .templates
            .add_template_owned(key.clone(), text.to_owned());
        if let Err(e) = added {
            faults.push(Fault::new(key, format!("is not a template: {e}")));
        }
    }

    fn text(&self, key: &str, context: &Value) -> Result<String, String> {
        self.templates
            .get_template(key)
            .and_then(|template| template.render(context))
            .map_err(|e| format!("{key}: {e}"))
    }
}

/// What an event lacks, and JSON's null, is empty text: a user called "none" is nobody.
fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Chainable);
    environment.set_formatter(|out, state, value| {
        let value = if value.is_none() {
            &Value::UNDEFINED
        } else {
            value
        };
        escape_formatter(out, state, value)
    });
    environment
}

/// The event as REST shows it, for templates to read.
fn context(event: &Event) -> Result<Value, String> {
    serde_json::from_str(&event.to_json()).map_err(|e| format!("the event's JSON: {e}"))
}

/// The payload's `message` or `text`, the payload when it is text, or else its JSON in short.
fn default_body(event: &Event) -> String {
    use serde_json::Value;
    let payload: Value = serde_json::from_str(event.payload.get()).unwrap_or_default();
    let own = ["message", "text"]
        .iter()
        .find_map(|key| payload.get(key)?.as_str().filter(|text| !text.is_empty()));
    match (&payload, own) {
        (_, Some(text)) => text.to_owned(),
        (Value::String(text), None) => text.clone(),
        (Value::Null, None) => String::new(),
        (json, None) => shorten(&json.to_string(), MAX_PAYLOAD),
    }
}

/// Text as a topic: at most 32 characters of base64url (RFC 8030 §5.4). Other text is hashed, so
/// that the same text is the same topic still.
fn topic(text: &str) -> Option<String> {
    let fit = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if text.is_empty() {
        None
    } else if text.len() <= MAX_TOPIC && text.chars().all(fit) {
        Some(text.to_owned())
    } else {
        let mut hash = base64url::encode(digest(&SHA256, text.as_bytes()));
        hash.truncate(MAX_TOPIC);
        Some(hash)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::tests::event;

    fn messages(config: Value) -> Messages {
        let config = serde_json::from_value(config).expect("well-formed");
        Messages::new(&config).expect("compiles")
    }

    fn plaintext(message: &Message) -> Value {
        assert!(message.plaintext.len() <= MAX_PLAINTEXT);
        serde_json::from_slice(&message.plaintext).expect("JSON")
    }

    #[test]
    fn the_first_template_whose_types_match_speaks() {
        let messages = messages(json!({"templates": [
            {"types": ["order.*"], "title": "Order {{ payload.id }}", "body": "{{ payload.a.b }}!",
             "url": "/orders/{{ payload.id }}", "topic": "order-{{ payload.id }}"},
            {"title": "Other"},
        ]}));
        let order = event("acme", "order.created", json!({"id": 7, "text": "hello"}));
        let message = messages.render(&order).expect("rendered");
        assert_eq!(
            plaintext(&message),
            json!({
                "title": "Order 7", "body": "!", "url": "/orders/7",
                "eventId": order.event_id.to_string(), "aggregateId": order.aggregate_id,
                "tenantId": "acme", "type": "order.created",
            })
        );
        assert_eq!(message.topic.as_deref(), Some("order-7"));
        let other = event("acme", "user.created", json!({"text": "hello"}));
        let message = messages.render(&other).expect("rendered");
        assert_eq!(plaintext(&message)["title"], "Other");
        assert_eq!(plaintext(&message)["body"], "hello", "the default");
        assert_eq!(message.topic, None);
    }

    #[test]
    fn without_a_template_the_type_and_the_payload_speak() {
        let messages = messages(json!({}));
        for (payload, body) in [
            (json!({"message": "m", "text": "t"}), "m"),
            (json!({"message": 1, "text": "t"}), "t"),
            (json!("plain"), "plain"),
            (json!({"a": [1, 2]}), r#"{"a":[1,2]}"#),
            (Value::Null, ""),
        ] {
            let message = messages
                .render(&event("acme", "order.created", payload))
                .expect("rendered");
            assert_eq!(plaintext(&message)["title"], "order.created");
            assert_eq!(plaintext(&message)["body"], body);
        }
    }

    #[test]
    fn a_body_of_any_length_and_script_fits_one_message() {
        let messages = messages(json!({}));
        for piece in ["x", "\"", "\n", "\u{1}", "é", "日", "🦀", "\\a"] {
            let text = piece.repeat(5000);
            let long = event(&"t".repeat(128), "order.created", json!({"text": text}));
            let message = messages.render(&long).expect("rendered");
            let body = plaintext(&message)["body"]
                .as_str()
                .expect("text")
                .to_owned();
            let kept = body.strip_suffix('…').expect("marked as cut");
            assert!(text.starts_with(kept), "{piece:?}");
            if piece != "\n" {
                assert!(
                    message.plaintext.len() > MAX_PLAINTEXT - 8,
                    "{piece:?} fills it"
                );
            }
        }
    }

    #[test]
    fn the_longest_message_is_not_cut_and_one_byte_more_is() {
        let messages = messages(json!({}));
        let render = |length: usize| {
            let text = "x".repeat(length);
            let event = event("acme", "order.created", json!({"text": text}));
            messages.render(&event).expect("rendered").plaintext
        };
        let room = MAX_PLAINTEXT - render(1).len() + 1;
        assert_eq!(render(room).len(), MAX_PLAINTEXT);
        assert!(!String::from_utf8_lossy(&render(room)).contains('…'));
        assert!(String::from_utf8_lossy(&render(room + 1)).contains('…'));
    }

    #[test]
    fn a_long_title_is_cut_and_a_long_url_left_out() {
        let messages = messages(json!({"templates": [
            {"title": "{{ payload.long }}", "url": "/{{ payload.long }}", "body": "{{ payload.long }}"},
        ]}));
        let long = event("acme", "a", json!({"long": "日".repeat(4000)}));
        let shown = plaintext(&messages.render(&long).expect("rendered"));
        assert!(shown["title"].as_str().expect("text").ends_with('…'));
        assert_eq!(shown.get("url"), None);
    }

    #[test]
    fn the_user_template_names_the_audience() {
        let messages = messages(json!({"user": "{{ payload.userId }}"}));
        for (payload, audience) in [
            (json!({"userId": "ann"}), Audience::User("ann".into())),
            (json!({"userId": 42}), Audience::User("42".into())),
            (json!({"userId": null}), Audience::Nobody),
            (json!({}), Audience::Nobody),
            (json!([]), Audience::Nobody),
        ] {
            let event = event("acme", "a", payload);
            assert_eq!(messages.audience(&event).expect("rendered"), audience);
        }
    }

    #[test]
    fn any_text_makes_a_topic_that_push_services_take() {
        assert_eq!(topic(""), None);
        assert_eq!(topic("order-7_A").as_deref(), Some("order-7_A"));
        let hashed = topic("Bestellung № 7").expect("a topic");
        assert_eq!(hashed.len(), 32);
        assert_eq!(topic("Bestellung № 7").as_ref(), Some(&hashed));
        assert_ne!(topic("Bestellung № 8").as_ref(), Some(&hashed));
        assert_eq!(topic(&"x".repeat(33)).expect("a topic").len(), 32);
    }
}
