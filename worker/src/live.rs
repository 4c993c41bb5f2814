//! Output for those who watch, while it is produced: core NATS, dropped whenever it cannot be sent at once.

use causey_protocol::codec;
use causey_protocol::id::RunId;
use causey_protocol::live::LiveOutput;
use causey_protocol::subject;
use tokio::sync::mpsc;

use crate::outside::Outside;

/// Pieces of output on their way to the connection.
const QUEUE_MAX: usize = 256;

#[derive(Clone, Debug)]
pub(crate) struct Live(mpsc::Sender<(RunId, LiveOutput)>);

impl Live {
    /// Sends in the background until all handles are gone.
    pub(crate) fn open(outside: impl Outside) -> Self {
        let (sender, mut queue) = mpsc::channel::<(RunId, LiveOutput)>(QUEUE_MAX);
        tokio::spawn(async move {
            while let Some((run, output)) = queue.recv().await {
                // A disconnected client would queue it, and then stand still.
                if outside.is_connected() {
                    let _ = outside.say(&subject::live_output(run), None, codec::encode(&output).into()).await;
                }
            }
        });
        Self(sender)
    }

    pub(crate) fn show(&self, run: RunId, output: LiveOutput) {
        let _ = self.0.try_send((run, output));
    }
}
