//! The mailbox in a browser, and as JSON for scripts.

use std::io;
use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use herald_routes::{Access, Params, Problem, Scope};
use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, context};
use serde::{Deserialize, Serialize};
use ulid::Ulid;

use crate::mailbox::{Entry, Mailbox, parse_id};

const MAX_LIMIT: usize = 1000;
const DEFAULT_LIMIT: usize = 100;

/// A mail's HTML stands in a frame that inherits this: it can run nothing and fetch nothing, so
/// that looking at a mail tells nobody.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; \
     img-src data:; frame-ancestors 'self'; base-uri 'none'; form-action 'none'";

struct Pages {
    mailbox: Arc<Mailbox>,
    templates: Environment<'static>,
}

/// The routes; `Scope::Admin` all.
pub fn router(mailbox: Arc<Mailbox>) -> Router {
    let mut templates = Environment::new();
    templates.set_auto_escape_callback(|_| AutoEscape::Html);
    for (name, source) in [
        ("layout", include_str!("templates/layout.html")),
        ("list", include_str!("templates/list.html")),
        ("mail", include_str!("templates/mail.html")),
    ] {
        // They are part of the program, and each is rendered by a test.
        if let Err(e) = templates.add_template(name, source) {
            tracing::error!("the page {name} is malformed: {e}");
        }
    }
    Router::new()
        .route("/mailbox", get(list))
        .route("/mailbox.json", get(json))
        .route("/mailbox/{id}", get(mail))
        .route("/mailbox/{id}/raw", get(raw))
        .with_state(Arc::new(Pages { mailbox, templates }))
}

#[derive(Deserialize)]
struct Limit {
    limit: Option<usize>,
}

impl Limit {
    fn get(&self) -> Result<usize, Problem> {
        match self.limit.unwrap_or(DEFAULT_LIMIT) {
            limit @ 1..=MAX_LIMIT => Ok(limit),
            _ => Err(Problem::invalid("limit", "limit must be 1 to 1000")),
        }
    }
}

async fn list(
    State(pages): State<Arc<Pages>>,
    access: Access,
    Params(limit): Params<Limit>,
) -> Result<Response, Problem> {
    access.require(Scope::Admin)?;
    let limit = limit.get()?;
    let mails = pages.read(move |mailbox| mailbox.newest(limit)).await?;
    pages.page("list", context! { mails => Serde(mails) })
}

#[derive(Serialize)]
struct Mails {
    mails: Vec<Entry>,
}

/// `{mails: [{id, messageId, to, from, subject, date, eventId, text}]}`, newest first.
async fn json(
    State(pages): State<Arc<Pages>>,
    access: Access,
    Params(limit): Params<Limit>,
) -> Result<Json<Mails>, Problem> {
    access.require(Scope::Admin)?;
    let limit = limit.get()?;
    let mut mails = pages.read(move |mailbox| mailbox.newest(limit)).await?;
    for mail in &mut mails {
        mail.html = None;
    }
    Ok(Json(Mails { mails }))
}

async fn mail(
    State(pages): State<Arc<Pages>>,
    access: Access,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    access.require(Scope::Admin)?;
    let id = known(&id)?;
    let mail = pages.read(move |mailbox| mailbox.entry(id)).await?;
    let mail = mail.ok_or_else(no_such_mail)?;
    pages.page("mail", context! { mail => Serde(mail) })
}

async fn raw(
    State(pages): State<Arc<Pages>>,
    access: Access,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    access.require(Scope::Admin)?;
    let id = known(&id)?;
    let bytes = pages.read(move |mailbox| mailbox.raw(id)).await?;
    let bytes = bytes.ok_or_else(no_such_mail)?;
    let headers = [
        (header::CONTENT_TYPE, "text/plain; charset=utf-8"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    Ok((headers, bytes).into_response())
}

fn known(id: &str) -> Result<Ulid, Problem> {
    parse_id(id).ok_or_else(no_such_mail)
}

fn no_such_mail() -> Problem {
    Problem::not_found("the mailbox has no such mail")
}

impl Pages {
    /// Reads files away from the threads that serve.
    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Mailbox) -> io::Result<T> + Send + 'static,
    ) -> Result<T, Problem> {
        let mailbox = Arc::clone(&self.mailbox);
        let result = tokio::task::spawn_blocking(move || read(&mailbox)).await;
        result.map_err(io::Error::other).flatten().map_err(|e| {
            tracing::warn!("the mailbox cannot be read: {e}");
            Problem::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "the mailbox cannot be read",
            )
        })
    }

    fn page(&self, name: &str, context: minijinja::Value) -> Result<Response, Problem> {
        let html = self
            .templates
            .get_template(name)
            .and_then(|template| template.render(context))
            .map_err(|e| {
                tracing::error!("the page {name} cannot be made: {e}");
                Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "the page cannot be made")
            })?;
        let headers = [
            (header::CONTENT_TYPE, "text/html; charset=utf-8"),
            (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (header::REFERRER_POLICY, "no-referrer"),
            (header::CACHE_CONTROL, "no-store"),
        ];
        Ok((headers, html).into_response())
    }
}
