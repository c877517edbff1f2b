package rest

import (
	"encoding/json"
	"errors"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/danielgtaylor/huma/v2"
)

// strictJSON refuses what the decoder would silently change: a store cannot keep it, and a reader in front of us may have
// taken it for something else.
var strictJSON = huma.Format{Marshal: huma.DefaultJSONFormat.Marshal, Unmarshal: readJSON}

// readJSON decodes a body. huma has each decoded twice: first as it is, to compare it with the schema, then into the
// input. Only the first looks closely.
func readJSON(data []byte, v any) error {
	if err := json.Unmarshal(data, v); err != nil {
		return err
	}
	if _, first := v.(*any); !first {
		return nil
	}
	return checkText(data)
}

// checkText finds in valid JSON what the decoder turns into U+FFFD.
func checkText(data []byte) error {
	if !utf8.Valid(data) {
		return errors.New("is not UTF-8")
	}
	for i := 0; i < len(data); i++ {
		if data[i] != '\\' {
			continue
		}
		i++
		r := escaped(data[i:])
		if !utf16.IsSurrogate(r) {
			continue
		}
		i += len(`ud800`)
		if data[i] != '\\' || utf16.DecodeRune(r, escaped(data[i+1:])) == utf8.RuneError {
			return errors.New(`contains half a character: a \ud800 to \udfff without the other one`)
		}
		i += len(`udc00`)
	}
	return nil
}

// escaped is the code of an escape that begins with the u of \u0000, and 0 of any other.
func escaped(s []byte) rune {
	if s[0] != 'u' {
		return 0
	}
	n, _ := strconv.ParseUint(string(s[1:5]), 16, 32) // the decoder has read it before
	return rune(n)
}
