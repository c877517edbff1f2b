// Package rabbit moves messages between processes over RabbitMQ: the transport of a subscription whose subscriber lives
// elsewhere, and of questions to a module that does.
//
// What it promises:
//
//	sent        Publish returns nil only when the broker has confirmed every message and has returned none of them: it is on the
//	            disks of the queue's quorum. Anything else is an error, also where the outcome is unknown; the caller keeps its row
//	            and sends again. A message may so be there twice, and never not at all.
//	order       a queue keeps the order in which one publisher was confirmed, and a subscriber is given a message only when the one
//	            before it of the same source and key is acknowledged. Whoever has at most one unconfirmed message per key, as the
//	            relay has, sees every key in order: across retries, lost connections, and consumers that take over from each other.
//	kept        a message leaves its queue by the acknowledgement of the one consumer, after the handler's commit, and in no other
//	            way. The broker never retries, drops or moves anything: no dead-letter exchange, no limit of deliveries, no TTL.
//	separate    each subscriber has a queue, a confirm channel and a window of its own. What is wrong with one (returned, without a
//	            quorum, declared with other arguments) concerns no other one.
//	outages     only delay. The connections are made again for as long as Run runs, with what was declared.
//
// At the broker:
//
//	exchange banyan                    direct, durable; routing key: the subscriber module
//	queue banyan.<module>              quorum, single active consumer, bound with <module>: the messages to a module
//	queue banyan.<module>.requests     classic, durable, any number of consumers, bound with <module>.requests: questions to it;
//	                                   they are transient and expire with their deadline
//	exchange banyan.events             topic, durable; routing key: the name of the event; for services that are not ours
//
// Messages have the form of watermill-amqp's DefaultMarshaler (string headers, _watermill_message_uuid), so that any Watermill
// service can join, and the AMQP properties message_id, type and correlation_id.
//
// Three connections, because the broker stops reading from one that publishes while it is short of memory or disk: one that
// publishes, one that consumes, whose acknowledgements so always get through, and one for questions and their replies.
//
// # Rights
//
// Each process should have a broker user of its own with the rights that Permissions gives for its modules: it may read the
// queues of its own modules alone. It cannot make the queue of another module, and need not: that is there as soon as that
// module has subscribed once, and until then what is sent to it waits in the outbox. A user with wider rights makes it ahead.
// Policies of the broker (message-ttl, max-length, delivery-limit, dead-letter-exchange) would break the promises above; do not
// let one match banyan.*.
//
// Clocks: a question carries its deadline as a time, so the clocks of processes must agree to well below a request's time-out.
package rabbit
