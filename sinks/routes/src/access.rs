//! Who is asking, as the host's authentication found out before the route runs.

use axum::extract::FromRequestParts;
use axum::http::StatusCode;
use axum::http::request::Parts;
use herald_contract::check_tenant;

use crate::Problem;

/// What a caller may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Read events and streams, manage push subscriptions.
    Subscribe,
    /// Emit events.
    Publish,
    /// Dead letters, sinks, the mailbox; every tenant.
    Admin,
}

/// The caller. The host's middleware puts it into the request; a route without it refuses.
#[derive(Debug, Clone)]
pub struct Access {
    /// The one tenant the caller belongs to; `None` is any.
    pub tenant: Option<String>,
    pub scopes: Vec<Scope>,
}

impl Access {
    /// Everything, for `auth.mode = "none"`.
    pub fn unrestricted() -> Self {
        Self {
            tenant: None,
            scopes: vec![Scope::Subscribe, Scope::Publish, Scope::Admin],
        }
    }

    /// # Errors
    /// 403 without the scope. `Admin` includes the others.
    pub fn require(&self, scope: Scope) -> Result<(), Problem> {
        if self.scopes.contains(&scope) || self.scopes.contains(&Scope::Admin) {
            Ok(())
        } else {
            Err(Problem::new(
                StatusCode::FORBIDDEN,
                format!("this needs the scope {scope:?}").to_lowercase(),
            ))
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
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        parts
            .extensions
            .get::<Access>()
            .cloned()
            .ok_or_else(|| Problem::new(StatusCode::UNAUTHORIZED, "not authenticated"))
    }
}
