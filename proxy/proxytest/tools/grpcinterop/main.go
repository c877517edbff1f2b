package main

import (
	_ "google.golang.org/grpc/interop"
)

func main() {}
