// Package testinfra gives tests the real thing: a PostgreSQL server and a RabbitMQ broker of their own, started from the
// binaries of the machine.
//
//	srv := testinfra.Postgres(t)          // shared by the tests of the process
//	dsn := srv.Database(t)                // a database of this test alone, dropped when it ends
//
//	srv := testinfra.StartPostgres(t, testinfra.Options{})   // private: may be stopped and crashed
//	srv.Crash(); srv.Start()
//
//	broker := testinfra.Rabbit(t)         // a virtual host of this test alone in the shared broker, deleted when it ends
//	url := broker.URL()
//
//	broker := testinfra.PrivateRabbit(t)  // private: may be stopped, killed, frozen and short of memory
//	broker.Crash(); broker.Start()
//
// BANYAN_TEST_POSTGRES (a superuser's DSN) names a server to use instead of starting one; so does BANYAN_TEST_RABBITMQ_URL (an
// administrator's URL; BANYAN_TEST_RABBITMQ_ADMIN_URL is that of its management plugin). Without binaries tests are
// skipped, unless BANYAN_TEST_REQUIRE is set: then they fail.
//
// A started server never outlives the process that asked for it, however that ends: a watcher reads from a pipe
// that closes with the process, stops the server and removes its folder.
package testinfra
