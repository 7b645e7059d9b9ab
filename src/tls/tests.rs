use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, KeyPair};
use tempfile::TempDir;
use tokio::time::sleep;

use super::*;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn in_days(days: i32) -> SystemTime {
    match u32::try_from(days) {
        Ok(days) => SystemTime::now() + DAY * days,
        Err(_) => SystemTime::now() - DAY * days.unsigned_abs(),
    }
}

/// A certificate for the time between these days from now, with its key.
fn make(from: i32, until: i32) -> (String, KeyPair) {
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new(["localhost".to_owned()]).expect("a name");
    params.not_before = in_days(from).into();
    params.not_after = in_days(until).into();
    let certificate = params.self_signed(&key).expect("a certificate");
    (certificate.pem(), key)
}

struct Files {
    folder: TempDir,
}

impl Files {
    fn new(certificate: &str, key: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let files = Self { folder };
        files.write(certificate, key);
        files
    }

    fn write(&self, certificate: &str, key: &str) {
        fs::write(self.path("certificate"), certificate).expect("writes");
        fs::write(self.path("key"), key).expect("writes");
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn read(&self) -> Result<CertifiedKey, Fault> {
        read(&self.path("certificate"), &self.path("key"))
    }

    fn renewal(&self) -> Renewal {
        let pair = self.read().expect("a good pair");
        Renewal {
            certificate_file: self.path("certificate"),
            key_file: self.path("key"),
            current: Arc::new(Current(RwLock::new(Arc::new(pair)))),
            said: None,
        }
    }
}

/// The fault says all of this.
fn assert_says(read: Result<CertifiedKey, Fault>, words: &[&str]) {
    let said = read.expect_err("a fault").to_string();
    for word in words {
        assert!(said.contains(word), "no {word:?} in {said:?}");
    }
}

#[test]
fn a_pair_that_cannot_be_used_is_refused_with_the_file_at_fault() {
    let ((certificate, key), (_, other)) = (make(-1, 90), make(-1, 90));
    let key = key.serialize_pem();
    let (of_certificate, of_key) = ("http.tls.certificate_file: ", "http.tls.key_file: ");
    let fault = |certificate: &str, key: &str| Files::new(certificate, key).read();
    assert!(fault(&certificate, &key).is_ok());
    assert!(fault(&certificate, &format!("{certificate}{key}")).is_ok());

    assert_says(
        fault(&certificate, &other.serialize_pem()),
        &[of_key, "is not the key of"],
    );
    assert_says(fault("", &key), &[of_certificate, "no certificate"]);
    assert_says(fault(&key, &key), &[of_certificate, "no certificate"]);
    assert_says(fault(&certificate, ""), &[of_key, "no private key"]);
    let encrypted = key.replace("PRIVATE", "ENCRYPTED PRIVATE");
    assert_says(fault(&certificate, &encrypted), &[of_key, "unencrypted"]);
    let cut = &certificate[..certificate.len() / 2];
    assert_says(fault(cut, &key), &[of_certificate, "is not PEM"]);
    let nonsense = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    assert_says(fault(nonsense, &key), &[of_certificate, "cannot be used"]);
    let nonsense = nonsense.replace("CERTIFICATE", "PRIVATE KEY");
    assert_says(fault(&certificate, &nonsense), &[of_key, "cannot be used"]);

    let files = Files::new(&certificate, &key);
    fs::remove_file(files.path("key")).expect("removes");
    assert_says(files.read(), &[of_key, "cannot be read"]);
    let missing = read(Path::new("/nowhere/at/all.pem"), &files.path("key"));
    assert_says(missing, &[of_certificate, "cannot be read"]);
}

#[test]
fn what_clients_will_object_to_is_said_before_they_do() {
    let doubt = |from, until| {
        let (certificate, key) = make(from, until);
        let files = Files::new(&certificate, &key.serialize_pem());
        pair::doubt(&files.read().expect("a good pair"))
    };
    let says = |doubt: Option<String>, word| doubt.is_some_and(|said| said.contains(word));
    assert_eq!(doubt(-1, 90), None);
    assert!(says(doubt(-89, 1), "expires on 20"));
    assert!(says(doubt(-90, -1), "has expired on 20"));
    assert!(says(doubt(5, 90), "not valid before 20"));
}

#[tokio::test]
async fn a_renewed_pair_is_taken_and_a_bad_one_leaves_that_before() {
    let ((first, first_key), (second, second_key)) = (make(-1, 90), make(-1, 90));
    let files = Files::new(&first, &first_key.serialize_pem());
    let mut renewal = files.renewal();
    let before = renewal.current.get();
    renewal.look().await;
    assert!(Arc::ptr_eq(&before, &renewal.current.get()), "nothing new");

    // A renewal that is only half done.
    files.write(&second, &first_key.serialize_pem());
    renewal.look().await;
    assert!(Arc::ptr_eq(&before, &renewal.current.get()), "a bad pair");
    let said = renewal.said.clone().expect("a warning");
    assert!(said.contains("http.tls.key_file"), "{said}");

    files.write(&second, &second_key.serialize_pem());
    renewal.look().await;
    assert_ne!(before.cert, renewal.current.get().cert);
    assert_eq!(renewal.said, None);
}

#[tokio::test(start_paused = true)]
async fn the_files_are_looked_at_once_a_minute_until_the_end() {
    let ((first, first_key), (second, second_key)) = (make(-1, 90), make(-1, 90));
    let files = Files::new(&first, &first_key.serialize_pem());
    let renewal = files.renewal();
    let (current, stop) = (renewal.current.clone(), CancellationToken::new());
    let hangup = signal(SignalKind::hangup()).expect("a signal");
    let task = tokio::spawn(renewal.run(hangup, stop.clone()));
    let before = current.get().cert.clone();
    files.write(&second, &second_key.serialize_pem());
    // The clock is paused, and goes on while nothing else does.
    for _ in 0..3 {
        sleep(LOOK).await;
    }
    assert_ne!(before, current.get().cert);
    stop.cancel();
    task.await.expect("it ends");
}
