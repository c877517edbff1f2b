package main

import (
	_ "github.com/coder/websocket"
	_ "github.com/gorilla/websocket"
)

func main() {}
