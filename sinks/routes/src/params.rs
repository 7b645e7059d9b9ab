//! Query strings and JSON bodies whose errors are problems that name the field.

use axum::body::Bytes;
use axum::extract::rejection::QueryRejection;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use serde::de::DeserializeOwned;

use crate::Problem;

/// The query string as `T`; 400 when it cannot be read.
#[derive(Debug, Clone)]
pub struct Params<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Params<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        Query::try_from_uri(&parts.uri)
            .map(|Query(value)| Self(value))
            .map_err(|rejection| {
                let problem = Problem::bad_request(rejection.body_text());
                match field(&rejection) {
                    Some(field) => problem.at(field),
                    None => problem,
                }
            })
    }
}

/// The parameter at fault, where it is known.
fn field(rejection: &QueryRejection) -> Option<String> {
    let mut error: &(dyn std::error::Error + 'static) = rejection;
    loop {
        if let Some(at) =
            error.downcast_ref::<serde_path_to_error::Error<serde::de::value::Error>>()
        {
            let path = at.path().to_string();
            return (path != ".").then_some(path);
        }
        error = error.source()?;
    }
}

/// The one variable part of the path; 400 when it is not UTF-8.
#[derive(Debug, Clone)]
pub struct Segment(pub String);

impl<S: Send + Sync> FromRequestParts<S> for Segment {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        Path::from_request_parts(parts, state)
            .await
            .map(|Path(text)| Self(text))
            .map_err(|rejection| Problem::bad_request(rejection.body_text()))
    }
}

/// The body as a JSON object, whatever its `Content-Type` says; 400 when it is not JSON, 422 when it is
/// not a `T`, 413 when it is larger than the route's limit.
#[derive(Debug, Clone)]
pub struct Body<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let bytes = Bytes::from_request(request, state)
            .await
            .map_err(|e| Problem::new(e.status(), e.body_text()))?;
        Self::from_bytes(&bytes)
    }
}

impl<T: DeserializeOwned> Body<T> {
    /// Reads a body that is already here.
    ///
    /// # Errors
    /// 400 when it is not JSON, 422 with the path of the field when it is not a `T`.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Problem> {
        // serde would read an array as the fields in their order.
        if bytes.trim_ascii_start().first() == Some(&b'[') {
            return Err(Problem::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "an object is expected here, not an array",
            ));
        }
        let mut json = serde_json::Deserializer::from_slice(bytes);
        let value = serde_path_to_error::deserialize(&mut json).map_err(|e| {
            let path = e.path().to_string();
            let inner = e.into_inner();
            if inner.is_data() {
                let problem = Problem::new(StatusCode::UNPROCESSABLE_ENTITY, inner.to_string());
                if path == "." {
                    problem
                } else {
                    problem.at(path)
                }
            } else {
                Problem::bad_request(format!("malformed JSON: {inner}"))
            }
        })?;
        json.end()
            .map_err(|e| Problem::bad_request(format!("malformed JSON: {e}")))?;
        Ok(Self(value))
    }
}
