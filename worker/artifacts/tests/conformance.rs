//! One suite over all kinds of store: memory, a folder, and a bucket of a real S3 protocol server (`moto_server`, found through
//! `CAUSEY_TEST_MOTO`; without it that half says so and is skipped).

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use causey_artifacts::{Memory, OpenError, Put, S3Access, Store, StoreError, hash_file};
use causey_protocol::id::Digest;

async fn behaves_like_a_store(store: &Store) {
    assert_eq!(store.get("runs/r/k").await.unwrap(), None);
    assert_eq!(store.head("runs/r/k").await.unwrap(), None);
    assert_eq!(store.put_if_absent("runs/r/k", Bytes::from_static(b"first")).await.unwrap(), Put::Stored);
    assert_eq!(store.put_if_absent("runs/r/k", Bytes::from_static(b"second")).await.unwrap(), Put::Present);
    assert_eq!(store.get("runs/r/k").await.unwrap().unwrap(), "first");
    assert_eq!(store.head("runs/r/k").await.unwrap(), Some(5));

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    let content = vec![7; 300_000];
    std::fs::write(&file, &content).unwrap();
    assert_eq!(hash_file(&file).unwrap(), (Digest::of(&content), 300_000));
    assert_eq!(store.put_file_if_absent("cas/f", &file).await.unwrap(), Put::Stored);
    std::fs::write(folder.path().join("other"), b"other").unwrap();
    assert_eq!(store.put_file_if_absent("cas/f", &folder.path().join("other")).await.unwrap(), Put::Present);
    assert_eq!(store.get("cas/f").await.unwrap().unwrap(), content);

    let copy = folder.path().join("copy");
    assert!(store.get_to_file("cas/f", &copy).await.unwrap());
    assert_eq!(std::fs::read(&copy).unwrap(), content);
    assert!(!store.get_to_file("cas/missing", &copy).await.unwrap());
    assert!(matches!(store.get("../etc").await, Err(StoreError::Path { .. })));

    prepares(store).await;
    assert_eq!(store.list("snap").await.unwrap(), Vec::<String>::new());
    for name in ["7", "12"] {
        store.put_if_absent(&format!("snap/{name}"), Bytes::from_static(b"x")).await.unwrap();
    }
    let mut names = store.list("snap").await.unwrap();
    names.sort();
    assert_eq!(names, ["12", "7"]);
    store.remove("snap/7").await.unwrap();
    store.remove("snap/7").await.unwrap();
    assert_eq!(store.list("snap").await.unwrap(), ["12"]);
    assert_eq!(store.get("snap/7").await.unwrap(), None);

    race(store).await;
}

/// What is made ahead for a put changes neither what it does nor what is left behind.
async fn prepares(store: &Store) {
    for (path, content) in [("runs/ahead/a", b"a"), ("runs/ahead/b", b"b")] {
        store.prepare(path);
        assert_eq!(store.get(path).await.unwrap(), None);
        assert_eq!(store.put_if_absent(path, Bytes::from_static(content)).await.unwrap(), Put::Stored);
        store.prepare(path);
        assert_eq!(store.put_if_absent(path, Bytes::from_static(b"late")).await.unwrap(), Put::Present);
        assert_eq!(store.get(path).await.unwrap().unwrap(), content.as_slice());
        if let Some(root) = store.root() {
            let mode = std::fs::metadata(root.join(path)).unwrap().permissions();
            assert_eq!(std::os::unix::fs::PermissionsExt::mode(&mode) & 0o777, 0o444);
            assert_eq!(std::fs::read_dir(root.join("tmp")).unwrap().count(), 0);
        }
    }
}

/// A folder that is made ahead may come between a put's two looks at it.
async fn races_with_its_preparation(store: &Store) {
    let puts = (0..300).map(|round| {
        let (store, path) = (store.clone(), format!("runs/beside-{round}/a"));
        tokio::spawn(async move {
            store.prepare(&path);
            store.put_if_absent(&path, Bytes::from_static(b"a")).await
        })
    });
    for put in puts.collect::<Vec<_>>() {
        assert_eq!(put.await.unwrap().unwrap(), Put::Stored);
    }
}

/// Of concurrent puts of one path exactly one is stored, and it is what everybody reads.
async fn race(store: &Store) {
    for round in 0..5 {
        let path = format!("runs/race/{round}");
        let puts = (0..8u8).map(|writer| {
            let (store, path) = (store.clone(), path.clone());
            tokio::spawn(async move { (writer, store.put_if_absent(&path, Bytes::from(vec![writer; 100])).await.unwrap()) })
        });
        let mut winners = vec![];
        for put in puts.collect::<Vec<_>>() {
            if let (writer, Put::Stored) = put.await.unwrap() {
                winners.push(writer);
            }
        }
        assert_eq!(winners.len(), 1, "round {round}: {winners:?}");
        assert_eq!(store.get(&path).await.unwrap().unwrap(), vec![winners[0]; 100]);
    }
}

/// Row 3 of the fault model.
#[tokio::test(flavor = "multi_thread")]
async fn preparing_a_folder_does_not_disturb_a_put() {
    let folder = tempfile::tempdir().unwrap();
    races_with_its_preparation(&Store::open(&folder.path().join("store").to_string_lossy(), false).await.unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_is_a_store() {
    let folder = tempfile::tempdir().unwrap();
    let location = folder.path().join("store");
    for durable in [true, false] {
        let _ = std::fs::remove_dir_all(&location);
        let store = Store::open(location.to_str().unwrap(), durable).await.unwrap();
        assert_eq!(Store::open(location.to_str().unwrap(), durable).await.unwrap().id(), store.id(), "the identity stays");
        behaves_like_a_store(&store).await;
    }
    let left: Vec<_> = std::fs::read_dir(folder.path().join("store/tmp")).unwrap().collect();
    assert!(left.is_empty(), "temporary files stay: {left:?}");
}

#[tokio::test]
async fn memory_is_a_store() {
    behaves_like_a_store(&Store::in_memory(Memory::new(uuid::Uuid::from_u128(1)))).await;
}

#[tokio::test]
async fn a_store_that_cannot_be_written_names_the_folder() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("file"), b"").unwrap();
    let location = folder.path().join("file/store");
    let error = Store::open(location.to_str().unwrap(), false).await.unwrap_err();
    assert!(error.to_string().contains("file/store"), "{error}");
    assert!(matches!(Store::open("gs://bucket", false).await, Err(OpenError::Location { .. })));
}

/// Ends the server with the test.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_is_a_store() {
    let Some(moto) = std::env::var_os("CAUSEY_TEST_MOTO") else {
        eprintln!("skipped: CAUSEY_TEST_MOTO does not name a moto_server (pip install 'moto[server]')");
        return;
    };
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut command = Command::new(moto);
    let server = command.args(["-p", &port.to_string()]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let _server = Server(server);
    wait_for_port(port).await;
    create_bucket(port).await;
    let access = S3Access {
        endpoint: Some(format!("http://127.0.0.1:{port}")),
        region: "us-east-1".into(),
        access_key_id: "test".into(),
        secret_access_key: "test".into(),
        session_token: None,
    };
    let open = || Store::open_bucket("s3://artifacts/some/prefix/", access.clone());
    let store = open().await.unwrap();
    assert_eq!(open().await.unwrap().id(), store.id(), "the identity stays");
    behaves_like_a_store(&store).await;
}

async fn wait_for_port(port: u16) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
        assert!(Instant::now() < deadline, "moto_server does not listen");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn create_bucket(port: u16) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let request = format!("PUT /artifacts HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}
