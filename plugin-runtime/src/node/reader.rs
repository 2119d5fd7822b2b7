//! Takes what comes from a plugin while no caller does it.

use std::sync::Arc;

use orchestrator_contract::{
    CallError, HostCallError, SessionId,
    frame::{Frame, HEADER_MAX, HostCall, HostResult},
};
use serde_json::Value;
use tokio::task::JoinSet;

use super::{
    answer::Question,
    connection::Connection,
    intake::{Left, Read, belongs},
};

/// Questions of one plugin to the host that may be open at once.
const HOST_CALLS_MAX: usize = 256;
/// The largest answer to such a question: a header with some room for its frame.
const HOST_ANSWER_MAX: usize = HEADER_MAX - 1024;

/// Why nothing more comes from a plugin.
#[derive(Debug)]
pub(super) enum End {
    /// The other end was closed, with this many bytes of an unfinished frame.
    Closed { pending: usize },
    /// The plugin broke a rule.
    Fault(CallError),
}

/// Takes frames until the stream ends or a rule is broken.
pub(super) async fn read(connection: Arc<Connection>) -> End {
    let mut questions = JoinSet::new();
    // The handshake may have read more than its frames.
    let mut read = Read::All;
    loop {
        while questions.try_join_next().is_some() {}
        match give_out(&connection) {
            Some(Left::Fault(fault)) => return End::Fault(fault),
            Some(Left::Question(question)) => {
                if let Err(fault) = ask(&connection, question, &mut questions) {
                    return End::Fault(fault);
                }
                continue;
            }
            None => {}
        }
        if read == Read::End {
            let pending = connection.intake().pending();
            return End::Closed { pending };
        }
        read = tokio::select! {
            ready = connection.socket.readable() => match ready {
                Ok(mut ready) => {
                    let read = connection.intake().read(&connection.socket);
                    // Less than fits is all there was, as far as the kernel has told;
                    // without a look, its news are still good.
                    if matches!(read, Read::Nothing | Read::All) {
                        ready.clear_ready();
                    }
                    read
                }
                Err(_) => Read::End,
            },
            // A caller read something that is for this task.
            () = connection.left.notified() => Read::Left,
        };
    }
}

fn give_out(connection: &Connection) -> Option<Left> {
    let mut intake = connection.intake();
    intake.give_out(connection);
    intake.take_left()
}

/// Lets the host answer a question in a task of its own.
fn ask(
    connection: &Arc<Connection>,
    question: HostCall,
    questions: &mut JoinSet<()>,
) -> Result<(), CallError> {
    if questions.len() >= HOST_CALLS_MAX {
        return Err(CallError::protocol(
            "too_many_host_calls",
            format!("more than {HOST_CALLS_MAX} questions to the host at once"),
        ));
    }
    let session = match belongs(connection, question.call, "host call")? {
        Some(Question::Call { session, .. }) => Some(session),
        Some(Question::Reconcile | Question::State) | None => None,
    };
    let connection = Arc::clone(connection);
    questions.spawn(async move {
        let (value, error) = match answer(&connection, session, &question).await {
            Ok(value) => (value, None),
            Err(error) => (Value::Null, Some(error)),
        };
        let id = question.id;
        connection
            .send(Frame::HostResult(HostResult { id, value, error }))
            .await;
    });
    Ok(())
}

async fn answer(
    connection: &Connection,
    session: Option<SessionId>,
    question: &HostCall,
) -> Result<Value, HostCallError> {
    let refused = |message: &str| HostCallError::Refused {
        message: message.to_owned(),
    };
    let session = session.ok_or_else(|| refused("the call has ended"))?;
    let outlet = &connection.outlet;
    let request = question.request.clone();
    let value = outlet
        .host()
        .answer(outlet.plugin(), session, request)
        .await?;
    let length = serde_json::to_vec(&value).map_or(usize::MAX, |json| json.len());
    match length <= HOST_ANSWER_MAX {
        true => Ok(value),
        false => Err(refused("the answer is longer than a frame's header")),
    }
}
