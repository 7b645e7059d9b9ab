//! What watches herald can ask every process, whatever its roles.

use crate::harness::{Api, Config, Database, Home, eventually, postgres, redis, seconds};

#[tokio::test(flavor = "multi_thread")]
async fn a_process_without_the_api_tells_its_health_and_metrics_and_nothing_else() {
    let (Some(server), Some(redis)) = (postgres(), redis(32)) else {
        return;
    };
    let database = Database::create(&server).await;
    let config = Config::new(&database.url, &redis).table("operations", "listen = \"127.0.0.1:0\"");
    let home = Home::new(&config);
    let herald = home.start_as("relay", &["--only", "relay"]).await;
    let api: &Api = &herald.api;
    eventually("it leads", seconds(20), async || {
        let ready = api.get("/readyz").await.expect(200);
        (ready["parts"]["relay"]["detail"] == "leads").then_some(())
    })
    .await;
    assert_eq!(api.get("/healthz").await.status, 200);
    let metrics = api.get("/metrics").await;
    let text = String::from_utf8_lossy(&metrics.body).into_owned();
    assert!(text.contains("herald_relay_leader 1"), "{text}");
    for path in [
        "/",
        "/events?tenantId=acme",
        "/sinks",
        "/sse?tenantId=acme",
        "/dead",
    ] {
        assert_eq!(api.get(path).await.status, 404, "{path}");
    }
    assert!(herald.terminate().await.success());
}
