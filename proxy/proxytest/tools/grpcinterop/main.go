// Command grpcinterop is both ends of the interoperability tests of gRPC, as grpc-go has written them down.
//
//	grpcinterop serve            listens, and prints where
//	grpcinterop CASE TARGET [CA] is the client of one case; it exits with 1 if the case fails
//	grpcinterop cases            prints their names
//
// The client speaks h2c to host:port, and TLS if it is given the file of a CA.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/interop"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
)

// cases end the process themselves when they fail.
var cases = map[string]func(ctx context.Context, conn *grpc.ClientConn){
	"empty_unary":                 with(interop.DoEmptyUnaryCall),
	"large_unary":                 with(interop.DoLargeUnaryCall),
	"client_streaming":            with(interop.DoClientStreaming),
	"server_streaming":            with(interop.DoServerStreaming),
	"ping_pong":                   with(interop.DoPingPong),
	"empty_stream":                with(interop.DoEmptyStream),
	"timeout_on_sleeping_server":  with(interop.DoTimeoutOnSleepingServer),
	"cancel_after_begin":          with(interop.DoCancelAfterBegin),
	"cancel_after_first_response": with(interop.DoCancelAfterFirstResponse),
	"custom_metadata":             with(interop.DoCustomMetadata),
	"status_code_and_message":     with(interop.DoStatusCodeAndMessage),
	"special_status_message":      with(interop.DoSpecialStatusMessage),
	"unimplemented_method":        interop.DoUnimplementedMethod,
	"unimplemented_service": func(ctx context.Context, conn *grpc.ClientConn) {
		interop.DoUnimplementedService(ctx, testgrpc.NewUnimplementedServiceClient(conn))
	},
}

func with(do func(context.Context, testgrpc.TestServiceClient, ...grpc.CallOption)) func(context.Context, *grpc.ClientConn) {
	return func(ctx context.Context, conn *grpc.ClientConn) { do(ctx, testgrpc.NewTestServiceClient(conn)) }
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) == 1 && args[0] == "cases":
		fmt.Println(strings.Join(slices.Sorted(maps.Keys(cases)), "\n"))
		return nil
	case len(args) == 1 && args[0] == "serve":
		return serve()
	case len(args) == 2 || len(args) == 3:
		do := cases[args[0]]
		if do == nil {
			return fmt.Errorf("there is no case %q", args[0])
		}
		creds := insecure.NewCredentials()
		if len(args) == 3 {
			ca, err := os.ReadFile(args[2])
			if err != nil {
				return err
			}
			pool := x509.NewCertPool()
			if !pool.AppendCertsFromPEM(ca) {
				return fmt.Errorf("%s has no certificate", args[2])
			}
			creds = credentials.NewTLS(&tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12})
		}
		conn, err := grpc.NewClient("passthrough:///"+args[1], grpc.WithTransportCredentials(creds))
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		do(ctx, conn)
		return conn.Close()
	}
	return errors.New("usage: grpcinterop serve | cases | CASE TARGET [CA]")
}

// serve ends when the input does, with the process that has started it.
func serve() error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	s := grpc.NewServer()
	testgrpc.RegisterTestServiceServer(s, interop.NewTestServer())
	go func() {
		_, _ = os.Stdin.Read(make([]byte, 1))
		s.Stop()
	}()
	fmt.Println(l.Addr())
	return s.Serve(l)
}
