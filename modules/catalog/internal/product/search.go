package product

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/banyan-go/banyan/internal/errs"
)

// sortRunes of a name decide its place in a list; a cursor carries them and has to stay short.
const sortRunes = 64

// SearchText is what a search looks through: name and SKU in small letters.
func (p Product) SearchText() string {
	return strings.ToLower(p.Name) + "\n" + strings.ToLower(p.SKU)
}

// SortName is the name as lists are sorted by it: in small letters, cut to its first 64 characters.
func (p Product) SortName() string {
	name := []rune(strings.ToLower(p.Name))
	return string(name[:min(len(name), sortRunes)])
}

// Patterns turns what somebody searches for into LIKE patterns, all of which a SearchText must match. The
// signs that LIKE gives a meaning are escaped with '!': they are searched for as they stand.
func Patterns(search string) ([]string, error) {
	switch {
	case !utf8.ValidString(search) || strings.ContainsFunc(search, unicode.IsControl):
		return nil, errs.New(errs.Invalid, "a search has no control characters")
	case utf8.RuneCountInString(search) > MaxSearch:
		return nil, errs.New(errs.Invalid, "a search has at most %d characters", MaxSearch)
	}
	words := strings.Fields(strings.ToLower(search))
	if len(words) > MaxWords {
		return nil, errs.New(errs.Invalid, "a search has at most %d words", MaxWords)
	}
	escape := strings.NewReplacer("!", "!!", "%", "!%", "_", "!_")
	for i, w := range words {
		words[i] = "%" + escape.Replace(w) + "%"
	}
	return words, nil
}
