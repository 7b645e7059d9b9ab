//! What a mail says and to whom it goes: templates over the event.

use std::collections::HashSet;
use std::fmt::Write as _;

use herald_contract::{Event, Fault, TypeFilter};
use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, UndefinedBehavior, Value, escape_formatter};

use crate::address::{key, split};
use crate::config::{Config, Template, read};

/// The most recipients of one event. A list beyond it is a mistake in a payload, not a mailing.
const MAX_RECIPIENTS: usize = 1000;
/// The longest subject, in characters.
const MAX_SUBJECT: usize = 500;

/// The compiled templates of one sink.
#[derive(Debug)]
pub struct Templates {
    environment: Environment<'static>,
    /// In the order of `[[templates]]`.
    choices: Vec<Choice>,
}

/// Which parts one `[[templates]]` has; those it lacks take their default.
#[derive(Debug)]
struct Choice {
    types: TypeFilter,
    to: bool,
    subject: bool,
    text: bool,
    html: bool,
}

/// What one mail says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// One line.
    pub subject: String,
    /// At least one of text and HTML is there.
    pub text: Option<String>,
    pub html: Option<String>,
}

impl Templates {
    /// Compiles the configuration's templates.
    ///
    /// # Errors
    /// Each template that is malformed or cannot be read, by its key.
    pub fn new(config: &Config) -> Result<Self, Vec<Fault>> {
        let mut templates = Self {
            environment: environment(),
            choices: Vec::new(),
        };
        let mut faults = Vec::new();
        for (index, template) in config.templates.iter().enumerate() {
            templates.add_choice(index, template, &mut faults);
        }
        if faults.is_empty() {
            Ok(templates)
        } else {
            Err(faults)
        }
    }

    /// Whom the event is for, each address once. What is not an address is there too, so that the
    /// delivery to it can say so.
    ///
    /// # Errors
    /// The template fails on this event, and would again.
    pub fn recipients(&self, event: &Event) -> Result<Vec<String>, String> {
        let list = match self.choose(event) {
            Some((index, choice)) if choice.to => {
                self.render(&format!("templates[{index}].to"), &context(event)?)?
            }
            None if !self.choices.is_empty() => return Ok(Vec::new()),
            _ => default_to(event)?,
        };
        let mut seen = HashSet::new();
        let keys: Vec<String> = split(&list)
            .into_iter()
            .map(key)
            .filter(|key| !key.is_empty() && seen.insert(key.clone()))
            .collect();
        if keys.len() > MAX_RECIPIENTS {
            return Err(format!(
                "{} recipients are more than {MAX_RECIPIENTS}",
                keys.len()
            ));
        }
        Ok(keys)
    }

    /// What the event's mail says.
    ///
    /// # Errors
    /// A template fails on this event, and would again.
    pub fn content(&self, event: &Event) -> Result<Content, String> {
        let Some((index, choice)) = self.choose(event) else {
            return Ok(Content {
                subject: one_line(&event.kind),
                text: Some(default_text(event)?),
                html: None,
            });
        };
        let context = context(event)?;
        let part = |there: bool, name: &str| {
            there
                .then(|| self.render(&format!("templates[{index}].{name}"), &context))
                .transpose()
        };
        let subject = part(choice.subject, "subject")?.unwrap_or_default();
        let mut subject = one_line(&subject);
        if subject.is_empty() {
            subject = one_line(&event.kind);
        }
        Ok(Content {
            subject,
            text: part(choice.text, "text")?,
            html: part(choice.html, "html")?,
        })
    }

    fn choose(&self, event: &Event) -> Option<(usize, &Choice)> {
        let mut choices = self.choices.iter().enumerate();
        choices.find(|(_, choice)| choice.types.matches(&event.kind))
    }

    fn add_choice(&mut self, index: usize, template: &Template, faults: &mut Vec<Fault>) {
        let types = template.types.iter().map(String::as_str);
        let text = (&template.text, &template.text_file);
        let html = (&template.html, &template.html_file);
        let choice = Choice {
            // What is wrong with the types is told by the configuration.
            types: TypeFilter::from_items(types).unwrap_or_default(),
            to: template.to.is_some(),
            subject: template.subject.is_some(),
            text: text.0.is_some() || text.1.is_some(),
            html: html.0.is_some() || html.1.is_some(),
        };
        if !choice.text && !choice.html {
            let key = format!("templates[{index}].text");
            faults.push(Fault::new(key, "is missing; give text, html or both"));
        }
        self.choices.push(choice);
        for (name, part) in [("to", &template.to), ("subject", &template.subject)] {
            if let Some(source) = part {
                let key = format!("templates[{index}].{name}");
                self.compile(&key, &key, source.clone(), faults);
            }
        }
        for (name, (inline, file)) in [("text", text), ("html", html)] {
            let key = format!("templates[{index}].{name}");
            let file_key = format!("{key}_file");
            match (inline, file) {
                (Some(_), Some(_)) => {
                    let message = format!("is given beside {name}; keep one of the two");
                    faults.push(Fault::new(file_key, message));
                }
                (Some(source), None) => self.compile(&key, &key, source.clone(), faults),
                (None, Some(path)) => match read(path) {
                    Ok(source) => self.compile(&key, &file_key, source, faults),
                    Err(e) => faults.push(Fault::new(file_key, e)),
                },
                (None, None) => {}
            }
        }
    }

    fn compile(&mut self, name: &str, key: &str, source: String, faults: &mut Vec<Fault>) {
        if let Err(e) = self.environment.add_template_owned(name.to_owned(), source) {
            faults.push(Fault::new(key, format!("is not a template: {e}")));
        }
    }

    fn render(&self, name: &str, context: &Value) -> Result<String, String> {
        self.environment
            .get_template(name)
            .and_then(|template| template.render(context))
            .map_err(|e| format!("{name}: {e}"))
    }
}

/// What an event lacks, and JSON's null, is empty text: nobody's address is "none". Only HTML
/// escapes what it inserts.
fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Chainable);
    environment.set_auto_escape_callback(|name| {
        if name.ends_with(".html") {
            AutoEscape::Html
        } else {
            AutoEscape::None
        }
    });
    environment.set_formatter(|out, state, value| {
        if value.is_none() {
            Ok(())
        } else {
            escape_formatter(out, state, value)
        }
    });
    environment
}

/// The event as REST shows it.
fn context(event: &Event) -> Result<Value, String> {
    let json: serde_json::Value =
        serde_json::from_str(&event.to_json()).map_err(|e| format!("the event's JSON: {e}"))?;
    Ok(Value::from(Serde(json)))
}

fn payload(event: &Event) -> Result<serde_json::Value, String> {
    serde_json::from_str(event.payload.get()).map_err(|e| format!("the payload's JSON: {e}"))
}

/// `payload.email`, or else `payload.to`: text or a list of texts.
fn default_to(event: &Event) -> Result<String, String> {
    let payload = payload(event)?;
    let text = |name: &str| match payload.get(name) {
        Some(serde_json::Value::String(address)) => address.clone(),
        Some(serde_json::Value::Array(list)) => {
            let addresses: Vec<&str> = list.iter().filter_map(|item| item.as_str()).collect();
            addresses.join(",")
        }
        _ => String::new(),
    };
    let email = text("email");
    Ok(if email.trim().is_empty() {
        text("to")
    } else {
        email
    })
}

/// The payload, a line a field, and where it comes from.
fn default_text(event: &Event) -> Result<String, String> {
    let mut text = String::new();
    match payload(event)? {
        serde_json::Value::Object(fields) => {
            for (name, value) in fields {
                let _ = match value {
                    serde_json::Value::String(value) => writeln!(text, "{name}: {value}"),
                    value => writeln!(text, "{name}: {value}"),
                };
            }
        }
        serde_json::Value::String(value) => text = value + "\n",
        value => {
            let _ = writeln!(text, "{value:#}");
        }
    }
    let _ = write!(
        text,
        "\n-- \n{}\nevent {} of {}, {}\n",
        event.kind,
        event.event_id,
        event.tenant_id,
        event.created_at.format("%Y-%m-%d %H:%M:%S UTC")
    );
    Ok(text)
}

/// Text for a header: without line breaks, which would begin the next header, and bounded.
fn one_line(text: &str) -> String {
    let words: Vec<&str> = text
        .split(|c: char| c.is_control() || c.is_whitespace())
        .filter(|word| !word.is_empty())
        .collect();
    words.join(" ").chars().take(MAX_SUBJECT).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::tests::event;

    fn templates(value: serde_json::Value) -> Templates {
        let config: Config = serde_json::from_value(value).expect("well-formed");
        Templates::new(&config).expect("compiles")
    }

    fn to(template: &str, payload: serde_json::Value) -> Result<Vec<String>, String> {
        templates(json!({"templates": [{"to": template, "text": "x"}]}))
            .recipients(&event("order.created", payload))
    }

    #[test]
    fn addresses_are_told_apart_and_taken_once() {
        let list = r#""Doe, Jane" <jane@EXAMPLE.com>, jane@example.com,
            Bob@example.com,, bob@example.com"#;
        assert_eq!(
            to("{{ payload.list }}", json!({"list": list})).expect("renders"),
            ["jane@example.com", "Bob@example.com", "bob@example.com"]
        );
        let list = json!({"list": ["a@example.com", "b@example.com"]});
        assert_eq!(
            to("{{ payload.list | join(', ') }}", list).expect("renders"),
            ["a@example.com", "b@example.com"]
        );
    }

    #[test]
    fn what_an_event_lacks_is_nobody() {
        for payload in [
            json!({}),
            json!({"user": null}),
            json!({"user": {"email": null}}),
        ] {
            assert_eq!(to("{{ payload.user.email }}", payload), Ok(Vec::new()));
        }
    }

    #[test]
    fn a_template_that_fails_is_an_error_that_names_it() {
        let error = to("{{ payload.email.missing() }}", json!({"email": "x"})).expect_err("fails");
        assert!(error.starts_with("templates[0].to"), "{error}");
        let many = json!({"list": vec!["x"; 3]});
        let error = to(
            "{% for i in range(1001) %}a{{ i }}@example.com,{% endfor %}",
            many,
        )
        .expect_err("too many");
        assert!(error.contains("1001 recipients"), "{error}");
    }

    #[test]
    fn the_first_template_whose_types_match_is_used() {
        let templates = templates(json!({"templates": [
            {"types": ["order.*"], "to": "a@example.com", "subject": "one", "text": "1"},
            {"types": ["order.created", "user.*"], "to": "b@example.com", "html": "<b>{{ payload.x }}</b>"},
        ]}));
        let order = event("order.created", json!({}));
        assert_eq!(templates.content(&order).expect("renders").subject, "one");
        let user = event("user.created", json!({"x": "<script>"}));
        assert_eq!(
            templates.recipients(&user).expect("renders"),
            ["b@example.com"]
        );
        let content = templates.content(&user).expect("renders");
        assert_eq!(content.subject, "user.created");
        assert_eq!(content.text, None);
        assert_eq!(content.html.as_deref(), Some("<b>&lt;script&gt;</b>"));
        let other = event("invoice.sent", json!({"email": "c@example.com"}));
        assert_eq!(templates.recipients(&other), Ok(Vec::new()));
    }

    #[test]
    fn without_templates_the_payload_says_who_and_what() {
        let templates = templates(json!({}));
        for (payload, keys) in [
            (
                json!({"email": "a@example.com", "to": "b@example.com"}),
                vec!["a@example.com"],
            ),
            (
                json!({"to": ["a@example.com", "b@example.com"]}),
                vec!["a@example.com", "b@example.com"],
            ),
            (json!({"email": null, "to": 7}), vec![]),
            (json!("text"), vec![]),
        ] {
            let found = templates.recipients(&event("x", payload)).expect("renders");
            assert_eq!(found, keys);
        }
        let content = templates
            .content(&event("x.y", json!({"name": "Zoë", "n": 7, "in": [1]})))
            .expect("renders");
        let text = content.text.expect("text");
        assert_eq!(content.subject, "x.y");
        for line in ["name: Zoë", "n: 7", "in: [1]"] {
            assert!(text.lines().any(|l| l == line), "{text}");
        }
    }

    #[test]
    fn text_is_not_escaped_and_a_subject_is_one_line() {
        let templates = templates(json!({"templates": [
            {"subject": "Hi {{ payload.name }}", "text": "{{ payload.name }}"},
        ]}));
        let content = templates
            .content(&event(
                "x",
                json!({"name": "a & b\r\nBcc: evil@example.com"}),
            ))
            .expect("renders");
        assert_eq!(content.subject, "Hi a & b Bcc: evil@example.com");
        assert_eq!(
            content.text.as_deref(),
            Some("a & b\r\nBcc: evil@example.com")
        );
    }
}
