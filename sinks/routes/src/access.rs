//! Who is asking, as the host's authentication found out before the route runs.

use axum::extract::FromRequestParts;
use axum::http::StatusCode;
use axum::http::request::Parts;
use herald_contract::check_tenant;

use tokio::time::Instant;

use crate::{Authority, Problem, Refusal, authority};

/// What a caller may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Read events and streams, manage push subscriptions.
    Subscribe,
    /// Emit events.
    Publish,
    /// Dead letters, sinks, the mailbox, metrics, whichever tenant they speak of.
    Admin,
}

impl Scope {
    pub const ALL: [Self; 3] = [Self::Subscribe, Self::Publish, Self::Admin];

    /// What a token calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Subscribe => "subscribe",
            Self::Publish => "publish",
            Self::Admin => "admin",
        }
    }
}

/// The caller. A route gets it from the request: as the host's middleware has put it there, or by a
/// token. Without either it refuses.
#[derive(Debug, Clone)]
pub struct Access {
    /// The one tenant the caller belongs to; `None` is any.
    pub tenant: Option<String>,
    pub scopes: Vec<Scope>,
    /// When it ends, by this process's clock; `None` is never.
    pub expires_at: Option<Instant>,
}

impl Access {
    /// Everything, for `auth.mode = "none"`.
    pub fn unrestricted() -> Self {
        Self {
            tenant: None,
            scopes: Scope::ALL.into(),
            expires_at: None,
        }
    }

    /// # Errors
    /// 403 without the scope. `Admin` includes the others.
    pub fn require(&self, scope: Scope) -> Result<(), Problem> {
        if self.scopes.contains(&scope) || self.scopes.contains(&Scope::Admin) {
            Ok(())
        } else {
            let scope = scope.name();
            let problem = Problem::new(
                StatusCode::FORBIDDEN,
                format!("this needs the scope {scope}"),
            );
            // RFC 6750 §3.1.
            Err(problem.challenging(format!(
                "Bearer realm=\"herald\", error=\"insufficient_scope\", scope=\"{scope}\""
            )))
        }
    }

    /// The tenant to act for: the caller's own, or the one that is asked for.
    ///
    /// # Errors
    /// 403 without the scope or for another's tenant; 400 when none is named; 422 when the name
    /// is ill-formed.
    pub fn tenant(&self, scope: Scope, asked: Option<&str>) -> Result<String, Problem> {
        self.require(scope)?;
        let tenant = match (self.tenant.as_deref(), asked.filter(|t| !t.is_empty())) {
            (Some(own), Some(asked)) if own != asked => {
                return Err(
                    Problem::new(StatusCode::FORBIDDEN, "the token is another tenant's")
                        .at("tenantId"),
                );
            }
            (Some(own), _) => own,
            (None, Some(asked)) => asked,
            (None, None) => {
                return Err(Problem::bad_request("tenantId is required").at("tenantId"));
            }
        };
        check_tenant(tenant).map_err(|e| Problem::invalid("tenantId", format!("tenantId {e}")))?;
        Ok(tenant.to_owned())
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Access {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        authority::access(parts, false)
    }
}

/// The caller of a stream, whose token may also stand in the query as `access_token`, for an
/// `EventSource` and a browser's `WebSocket` send no header (RFC 6750 §2.3).
#[derive(Debug, Clone)]
pub struct StreamAccess {
    pub access: Access,
    /// Who judges a token that is to take the place of this one; `None` where none is asked for.
    pub authority: Option<Authority>,
}

impl<S: Send + Sync> FromRequestParts<S> for StreamAccess {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        Ok(Self {
            access: authority::access(parts, true)?,
            authority: parts.extensions.get().cloned(),
        })
    }
}
