// Package contracttest holds a module's contract still: a golden file per message, and a record of what has been
// released, which never changes.
//
//	func TestContract(t *testing.T) { contracttest.Check(t, ordersapi.Contract()) }
//
// testdata/<name>.json is the message with every field set. testdata/released.json lists the released messages
// with the shape of their JSON and the field that is their key. A message that is listed there stays as it is: no
// field is added, removed, renamed or retyped, not even an optional one; what has to change gets a new version
// beside the old one.
//
//	go test ./modules/*/*api -update              rewrites goldens that are not released
//	go test ./modules/*/*api -release all         releases everything that is not yet
//	go test ./modules/*/*api -release a.b.v2,…    releases these
package contracttest
