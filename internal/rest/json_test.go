package rest_test

import (
	"context"
	"strings"
	"testing"

	"github.com/banyan-go/banyan/internal/rest"
	"github.com/banyan-go/banyan/internal/unit"
)

func TestBodiesAreReadStrictly(t *testing.T) {
	t.Parallel()
	h, _ := server(t, nil, func(context.Context, *unit.Work) (made, error) { return made{}, nil })
	for _, c := range []struct {
		name, body string
		status     int
		want       string
	}{
		{"a plain one", good, 201, ""},
		{"other letters", `{"name":"größe €","password":"abc"}`, 201, ""},
		{"a pair", `{"name":"\ud83d\ude00","password":"abc"}`, 201, ""},
		{"a backslash before a u", `{"name":"\\ud800","password":"abc"}`, 201, ""},
		{"the sign for broken text, meant so", `{"name":"\ufffd","password":"abc"}`, 201, ""},
		{"not UTF-8", "{\"name\":\"\xff\",\"password\":\"abc\"}", 400, "is not UTF-8"},
		{"half a pair", `{"name":"\ud800","password":"abc"}`, 400, "half a character"},
		{"the other half", `{"name":"\uDC00","password":"abc"}`, 400, "half a character"},
		{"a pair the wrong way around", `{"name":"\ude00\ud83d","password":"abc"}`, 400, "half a character"},
		{"half a pair before another escape", `{"name":"\ud800\n","password":"abc"}`, 400, "half a character"},
		{"a key in other letters", `{"name":"x","password":"abc","NAME":"xxxxxxxxxxxxxxxxxxx"}`, 422, `"path":"body.NAME","message":"unexpected property"`},
		{"a key in other letters alone", `{"Name":"x","password":"abc"}`, 422, `"path":"body.Name","message":"unexpected property"`},
		{"a key in other letters, deeper", `{"name":"x","password":"abc","place":{"Street":"x"}}`, 422, `"path":"body.place.Street","message":"unexpected property"`},
		{"a key twice", `{"name":"x","password":"abc","name":"xxxxxxxxxxxxxxxxxxx"}`, 422, `"path":"body.name","message":"given twice"`},
		{"a key twice, once escaped", `{"name":"x","password":"abc","n\u0061me":"y"}`, 422, `"path":"body.name","message":"given twice"`},
		{"a key twice, deeper", `{"name":"x","password":"abc","places":[{"street":"a:b"},{"street":"\":","street":"y"}]}`, 422, `"path":"body.places[1].street","message":"given twice"`},
		{"a key twice, once with more in it", `{"name":"x","password":"abc","place":{"street":"x"},"place":{}}`, 422, `"path":"body.place","message":"given twice"`},
		{"a key in two objects", `{"name":"x","password":"abc","places":[{"street":"a"},{"street":"b"}]}`, 201, ""},
		{"half a pair at the end", `"\ud800"`, 400, "half a character"},
	} {
		rec := send(h, "POST", "/api/things/a", c.body, rest.Request{})
		if rec.Code != c.status || !strings.Contains(rec.Body.String(), c.want) {
			t.Errorf("%s: %d %s, want %d %s", c.name, rec.Code, rec.Body, c.status, c.want)
		}
	}
}
