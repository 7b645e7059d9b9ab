//! PostgreSQL's row-level security: what an application, a tenant and the tables' owner may do.

use herald::store::{Postgres, Store as _};
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};
use ulid::Ulid;

use crate::backend::{Fixture, TIMEOUT, event, ulid};
use crate::postgres::{admin, on_postgres, server, text, with_database};

/// A login with a role of herald's, and a connection as that login.
async fn login(f: &Fixture, role: &str) -> (String, PgConnection) {
    let name = format!("login_{}", ulid()).to_lowercase();
    f.execute(&format!("CREATE ROLE {name} LOGIN; GRANT {role} TO {name}"))
        .await
        .expect("created");
    let options: PgConnectOptions = f.url().parse().expect("a good URL");
    let connection = PgConnection::connect_with(&options.username(&name)).await;
    (name, connection.expect("connected"))
}

async fn drop_login(f: &Fixture, name: &str) {
    f.execute(&format!("DROP OWNED BY {name}; DROP ROLE {name}"))
        .await
        .expect("dropped");
}

async fn run(connection: &mut PgConnection, sql: &str) -> Result<u64, sqlx::Error> {
    let done = connection
        .execute(sqlx::raw_sql(AssertSqlSafe(sql)))
        .await?;
    Ok(done.rows_affected())
}

async fn count(connection: &mut PgConnection, table: &str) -> i64 {
    let sql = format!("SELECT count(*)::text FROM herald.{table}");
    text(connection, &sql)
        .await
        .expect("counted")
        .parse()
        .expect("a number")
}

#[tokio::test]
async fn an_application_reads_nothing_without_a_tenant_and_one_with_it() {
    on_postgres(async |f| {
        let events = f
            .feed(&[event("acme", "a"), event("bolt", "a"), event("bolt", "a")])
            .await;
        for event in &events {
            let dead = crate::ledger::write(event, "r", herald::store::State::Dead);
            f.store
                .ledger_record("email", &[dead])
                .await
                .expect("recorded");
        }
        let (name, mut app) = login(&f, "herald_app").await;
        for table in ["events", "feed", "deliveries", "push_subscriptions"] {
            assert_eq!(count(&mut app, table).await, 0, "{table}");
        }
        run(&mut app, "SET herald.tenant = 'bolt'")
            .await
            .expect("set");
        for table in ["events", "feed", "deliveries"] {
            assert_eq!(count(&mut app, table).await, 2, "{table}");
        }
        for refused in [
            "SELECT * FROM herald.outbox",
            "DELETE FROM herald.events",
            "UPDATE herald.events SET type = 'x'",
            "UPDATE herald.feed_state SET seq = 0",
            "INSERT INTO herald.feed VALUES (9, 9, 'bolt')",
            "SELECT * FROM herald.checkpoints",
            "SET ROLE herald_service",
        ] {
            assert!(run(&mut app, refused).await.is_err(), "{refused}");
        }
        app.close().await.expect("closed");
        drop_login(&f, &name).await;
    })
    .await;
}

#[tokio::test]
async fn an_application_emits_for_every_tenant_unless_it_is_bound_to_one() {
    on_postgres(async |f| {
        let (name, mut app) = login(&f, "herald_app").await;
        for sql in [
            "SELECT herald.emit('acme', 'a', '{\"form\": \"literal\"}')",
            "SELECT herald.emit('acme', 'a', '{\"form\": \"json\"}'::json)",
            "SELECT herald.emit('acme', 'a', '{\"form\": \"jsonb\"}'::jsonb)",
            "SELECT herald.emit('acme', 'a', '{\"form\": \"text\"}'::text)",
            "SELECT herald.emit('bolt', 'a', '1', '{\"trace\": 1}')",
            "SELECT herald.emit('bolt', 'a', '1', event_id => '01arz3ndektsv4rrffq69g5fav')",
        ] {
            let id = text(&mut app, sql)
                .await
                .unwrap_or_else(|e| panic!("{sql}: {e}"));
            Ulid::from_string(&id).expect("a ULID");
        }
        run(
            &mut app,
            "INSERT INTO herald.events (id, tenant_id, type, payload)
             VALUES (nextval('herald.events_id_seq'), 'acme', 'a', '1');
             INSERT INTO herald.outbox (aggregate_id, event_id)
             VALUES (currval('herald.events_id_seq'), '01ARZ3NDEKTSV4RRFFQ69G5FAW')",
        )
        .await
        .expect("plain inserts work");

        run(&mut app, "SET herald.tenant = 'acme'")
            .await
            .expect("set");
        text(&mut app, "SELECT herald.emit('acme', 'a', '1')")
            .await
            .expect("its own");
        assert!(
            text(&mut app, "SELECT herald.emit('bolt', 'a', '1')")
                .await
                .is_err()
        );
        let theirs =
            "INSERT INTO herald.events (tenant_id, type, payload) VALUES ('bolt', 'a', '1')";
        assert!(run(&mut app, theirs).await.is_err());

        let events = f.sequence().await;
        assert_eq!(events.len(), 8);
        assert_eq!(events[2].payload.get(), r#"{"form": "jsonb"}"#);
        let metadata = events[4].metadata.as_ref().map(|m| m.get());
        assert_eq!(metadata, Some(r#"{"trace": 1}"#));
        assert_eq!(events[5].event_id.to_string(), "01ARZ3NDEKTSV4RRFFQ69G5FAV");
        app.close().await.expect("closed");
        drop_login(&f, &name).await;
    })
    .await;
}

#[tokio::test]
async fn an_application_keeps_its_own_tenants_subscriptions_only() {
    on_postgres(async |f| {
        let (name, mut app) = login(&f, "herald_app").await;
        let put = |tenant: &str| {
            format!(
                "INSERT INTO herald.push_subscriptions (id, tenant_id, endpoint, p256dh, auth)
                 VALUES ('{}', '{tenant}', 'https://push.example', 'k', 's')",
                ulid()
            )
        };
        assert!(
            run(&mut app, &put("acme")).await.is_err(),
            "no tenant is set"
        );
        run(&mut app, "SET herald.tenant = 'acme'")
            .await
            .expect("set");
        run(&mut app, &put("acme")).await.expect("its own");
        assert!(run(&mut app, &put("bolt")).await.is_err());
        run(&mut app, "SET herald.tenant = 'bolt'")
            .await
            .expect("set");
        assert_eq!(count(&mut app, "push_subscriptions").await, 0);
        let removed = run(&mut app, "DELETE FROM herald.push_subscriptions").await;
        assert_eq!(removed.expect("done"), 0);
        assert_eq!(
            f.store
                .subscriptions_of(&["acme"])
                .await
                .expect("read")
                .len(),
            1
        );
        app.close().await.expect("closed");
        drop_login(&f, &name).await;
    })
    .await;
}

#[tokio::test]
async fn the_tables_owner_is_bound_as_well_and_herald_works_as_its_own_role() {
    // The outer database makes sure that the roles exist, which only then can be granted.
    on_postgres(async |f| {
        let server = server().expect("it is there");
        let owner = format!("owner_{}", ulid()).to_lowercase();
        admin(&server, &format!("CREATE ROLE {owner} LOGIN")).await;
        admin(
            &server,
            &format!("GRANT herald_app, herald_service TO {owner}"),
        )
        .await;
        admin(&server, &format!("CREATE DATABASE {owner} OWNER {owner}")).await;
        let options: PgConnectOptions = with_database(f.url(), &owner).parse().expect("a good URL");
        let options = options.username(&owner);
        let url = sqlx::ConnectOptions::to_url_lossy(&options).to_string();
        let store = Postgres::new(&url, 2, TIMEOUT).expect("a good URL");
        store.migrate().await.expect("migrated");
        store.emit(&[event("acme", "a")]).await.expect("emitted");
        let mut lead = store.try_lead().await.expect("asked").expect("leads");
        assert_eq!(lead.sequence(10).await.expect("sequenced").len(), 1);
        drop((lead, store));

        admin(&server, &format!("REVOKE herald_service FROM {owner}")).await;
        let mut connection = PgConnection::connect_with(&options)
            .await
            .expect("connected");
        for table in ["events", "feed"] {
            assert_eq!(count(&mut connection, table).await, 0, "{table}");
        }
        connection.close().await.expect("closed");
        admin(&server, &format!("DROP DATABASE {owner} WITH (FORCE)")).await;
        admin(&server, &format!("DROP ROLE {owner}")).await;
    })
    .await;
}
