//! The document, and as much of JSON Schema as it uses.

use serde_json::Value;

pub const METHODS: [&str; 5] = ["GET", "POST", "PUT", "PATCH", "DELETE"];

/// An OpenAPI document.
pub struct Document(pub Value);

impl Document {
    /// What a `$ref` points to; anything else is itself.
    pub fn resolve<'a>(&'a self, node: &'a Value) -> &'a Value {
        match node["$ref"].as_str() {
            None => node,
            Some(to) => {
                let pointer = to.strip_prefix('#').expect("a place in the document");
                let target = self.0.pointer(pointer);
                target.unwrap_or_else(|| panic!("{to} is not there"))
            }
        }
    }

    pub fn paths(&self) -> impl Iterator<Item = &str> + Clone {
        let paths = self.0["paths"].as_object().expect("an object");
        paths.keys().map(String::as_str)
    }

    /// The operation of a documented path, or null.
    pub fn operation(&self, method: &str, path: &str) -> &Value {
        &self.0["paths"][path][method.to_lowercase()]
    }

    /// Method and path of every operation.
    pub fn operations(&self) -> Vec<(&'static str, String)> {
        let all = self.paths().flat_map(|path| METHODS.map(|m| (m, path)));
        all.filter(|(method, path)| !self.operation(method, path).is_null())
            .map(|(method, path)| (method, path.to_owned()))
            .collect()
    }

    /// The documented path that a request's path is one of; a plain one before one with variables.
    pub fn template(&self, path: &str) -> String {
        let path = path.split('?').next().expect("at least one");
        let segments: Vec<&str> = path.split('/').collect();
        let fits = |template: &&str| {
            let parts: Vec<&str> = template.split('/').collect();
            let mut pairs = parts.iter().zip(&segments);
            parts.len() == segments.len() && pairs.all(|(p, s)| p.starts_with('{') || p == s)
        };
        let mut templates = self.paths();
        let found = templates
            .clone()
            .find(|template| *template == path)
            .or_else(|| templates.find(fits));
        found
            .unwrap_or_else(|| panic!("{path} is not documented"))
            .to_owned()
    }

    /// The path with the examples of its variables.
    pub fn example_path(&self, template: &str) -> String {
        let mut path = template.to_owned();
        let parameters = &self.0["paths"][template]["parameters"];
        for parameter in parameters.as_array().into_iter().flatten() {
            let parameter = self.resolve(parameter);
            let name = format!("{{{}}}", parameter["name"].as_str().expect("a name"));
            path = path.replace(&name, parameter["example"].as_str().expect("an example"));
        }
        assert!(!path.contains('{'), "{path}: a variable is not documented");
        path
    }

    /// An operation's example body of this name, or the only one.
    pub fn example_body(&self, method: &str, path: &str, name: &str) -> String {
        let media = &self.operation(method, path)["requestBody"]["content"]["application/json"];
        match &media["examples"][name]["value"] {
            Value::Null => media["example"].to_string(),
            example => example.to_string(),
        }
    }

    /// What is wrong with a value. Stricter than JSON Schema in one respect: a property that is not
    /// documented is a fault.
    pub fn faults(&self, schema: &Value, value: &Value, at: &str) -> Vec<String> {
        let mut faults = Vec::new();
        for (keyword, rule) in schema.as_object().expect("a schema") {
            let holds = match keyword.as_str() {
                "description" | "default" | "example" => true,
                "type" => texts(rule).any(|name| is(value, name)),
                "const" => value == rule,
                "enum" => rule.as_array().expect("a list").contains(value),
                "minimum" => value.as_i64() >= rule.as_i64(),
                "maximum" => value.as_i64() <= rule.as_i64(),
                "minLength" => length(value) >= rule.as_u64(),
                "maxLength" => length(value) <= rule.as_u64(),
                "maxItems" => value.as_array().map(|list| list.len() as u64) <= rule.as_u64(),
                // The one pattern there is.
                "pattern" => is(value, "null") || value.as_str().is_some_and(is_ulid),
                "format" => has_format(value, rule),
                "required" => texts(rule).all(|name| value.get(name).is_some()),
                "oneOf" | "anyOf" => {
                    let choices = rule.as_array().expect("a list").iter();
                    let fitting = choices.filter(|s| self.faults(s, value, at).is_empty());
                    let count = fitting.count();
                    count == 1 || count > 1 && keyword == "anyOf"
                }
                "$ref" | "items" | "properties" | "additionalProperties" => {
                    for (schema, part, name) in self.parts(keyword, rule, value, schema) {
                        let at = format!("{at}{name}");
                        match schema {
                            Some(schema) => faults.extend(self.faults(schema, part, &at)),
                            None => faults.push(format!("{at} is not documented")),
                        }
                    }
                    true
                }
                other => panic!("{other}: this checker does not know it"),
            };
            if !holds {
                faults.push(format!("{at}: {value} breaks {keyword} {rule}"));
            }
        }
        faults
    }

    /// The parts of a value that a keyword sends on to another schema; no schema is none known.
    fn parts<'a>(
        &'a self,
        keyword: &str,
        rule: &'a Value,
        value: &'a Value,
        schema: &'a Value,
    ) -> Vec<(Option<&'a Value>, &'a Value, String)> {
        let list = value.as_array().into_iter().flatten().enumerate();
        let members = value.as_object().into_iter().flatten();
        match keyword {
            "$ref" => vec![(Some(self.resolve(schema)), value, String::new())],
            "items" => list
                .map(|(index, item)| (Some(rule), item, format!("[{index}]")))
                .collect(),
            "properties" => members
                .map(|(name, part)| (rule.get(name), part, format!(".{name}")))
                .collect(),
            // `false` is what `properties` means here anyway.
            _ if rule.is_boolean() => Vec::new(),
            _ => members
                .map(|(name, part)| (Some(rule), part, format!(".{name}")))
                .collect(),
        }
    }
}

/// Every example of a media type or parameter.
pub fn examples(node: &Value) -> Vec<&Value> {
    let several = node["examples"].as_object().into_iter().flatten();
    let several = several.map(|(_, example)| &example["value"]);
    node.get("example").into_iter().chain(several).collect()
}

/// Text, or a list of it.
fn texts(rule: &Value) -> impl Iterator<Item = &str> {
    let one = rule.as_str().into_iter();
    let list = rule.as_array().into_iter().flatten();
    one.chain(list.map(|text| text.as_str().expect("text")))
}

fn is(value: &Value, name: &str) -> bool {
    match name {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("{other}: this checker does not know it"),
    }
}

fn length(value: &Value) -> Option<u64> {
    value.as_str().map(|text| text.chars().count() as u64)
}

fn is_ulid(text: &str) -> bool {
    text.starts_with(|c| ('0'..='7').contains(&c)) && ulid::Ulid::from_string(text).is_ok()
}

fn has_format(value: &Value, format: &Value) -> bool {
    match (format.as_str(), value.as_str()) {
        (Some("date-time"), Some(text)) => chrono::DateTime::parse_from_rfc3339(text)
            .is_ok_and(|t| t.offset().utc_minus_local() == 0),
        (Some("uri"), Some(text)) => text.parse::<hyper::Uri>().is_ok(),
        _ => true,
    }
}
