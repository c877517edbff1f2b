package control

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"github.com/banyan-go/banyan/internal/clock"
	"github.com/banyan-go/banyan/internal/database"
	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/internal/token"
	"github.com/banyan-go/banyan/internal/unit"
)

// The life of a signing key:
//
//	made ----- announceFor -----> signs ----- until the next one signs -----> verifies ----- keepFor -----> removed
//	  verifies from the start, so that whatever it signs later is believed everywhere
const (
	// refreshEvery is how soon a process knows of a new key, and token.JWKSMaxAge how soon those who read the key set do.
	refreshEvery = 30 * time.Second
	// announceFor is more than both together, with room for clocks that differ.
	announceFor = 2 * time.Minute
	// keepFor is more than the longest token, with room for a replica that has not heard yet that it signs with an old key.
	keepFor = token.MaxLife + 10*time.Minute
	// refreshPause bounds how often a token with an unknown key makes a process look.
	refreshPause   = 5 * time.Second
	refreshTimeout = 2 * time.Second
)

// ErrNoKeys: the shop has not been started yet.
var ErrNoKeys = errors.New("there are none; start the shop with `banyan serve` first")

// RingOptions are what a Ring works with.
type RingOptions struct {
	// PublicOnly reads no key that signs: what a module's process needs to believe the gateway.
	PublicOnly bool
	// ReadOnly makes and removes no keys: another process of the shop does.
	ReadOnly bool
	// Dropped is called when a key is believed no more: tokens that were verified with it may be remembered somewhere.
	Dropped func()
	Clock   clock.Clock
	Log     *slog.Logger
}

// Ring is the shop's keys as they are now, the same for all replicas: a key made by one of them is known to the others
// before it signs. It is safe for concurrent use, and takes the place of a token.Keyring.
type Ring struct {
	store   *unit.Store
	o       RingOptions
	current atomic.Pointer[token.Keyring]
	known   []string // ids; of read alone
	refresh *token.Refresher
}

// OpenRing reads the keys; the first process of the shop makes the first one. Run keeps them fresh.
func OpenRing(ctx context.Context, db *database.DB, o RingOptions) (*Ring, error) {
	if o.Clock == nil {
		o.Clock = clock.System{}
	}
	r := &Ring{store: keyStore(db, o.Clock), o: o}
	r.refresh = token.NewRefresher(token.RefresherOptions{
		Read: r.read, Every: refreshEvery, Pause: refreshPause, Timeout: refreshTimeout, Clock: o.Clock, Log: o.Log, What: "signing keys",
	})
	if !o.PublicOnly && !o.ReadOnly {
		if err := ensureKey(ctx, r.store); err != nil {
			return nil, fmt.Errorf("signing keys: %w", err)
		}
	}
	if err := r.read(ctx); err != nil {
		return nil, fmt.Errorf("signing keys: %w", err)
	}
	return r, nil
}

func keyStore(db *database.DB, c clock.Clock) *unit.Store {
	return unit.New(db, unit.Options{Module: database.Control, Clock: c})
}

// Run follows what other replicas do until ctx ends.
func (r *Ring) Run(ctx context.Context) error { return r.refresh.Run(ctx) }

// Issue signs a token with the key that signs now.
func (r *Ring) Issue(c token.Claims) (string, error) { return r.current.Load().Issue(c) }

// Verify gives the claims of a token that is valid now.
func (r *Ring) Verify(t string, now time.Time) (token.Claims, error) {
	if len(t) <= token.MaxSize {
		r.look(token.UnverifiedKeyID(t))
	}
	return r.current.Load().Verify(t, now)
}

// Signer is the key that signs now.
func (r *Ring) Signer() (token.Key, error) { return r.current.Load().Signer() }

// Public is the public key of an id.
func (r *Ring) Public(id string) (ed25519.PublicKey, bool) {
	r.look(id)
	return r.current.Load().Public(id)
}

// JWKS is the JSON Web Key Set of the public keys, those that do not sign yet among them.
func (r *Ring) JWKS() []byte { return r.current.Load().JWKS() }

// thumbprintSize is the length of the ids of our keys.
const thumbprintSize = 43

// look reads the keys if the id may be that of a new one.
func (r *Ring) look(id string) {
	if len(id) != thumbprintSize {
		return
	}
	if _, ok := r.current.Load().Public(id); !ok {
		r.refresh.Ask()
	}
}

// read takes the keys into use that are in the store, and removes those whose time is over.
func (r *Ring) read(ctx context.Context) error {
	rows, err := readKeys(r.store, ctx, r.o.PublicOnly)
	if err != nil {
		return err
	}
	now := r.o.Clock.Now()
	var keys []token.Key
	var ids, over []string
	for _, k := range lives(rows, now) {
		if k.State == KeyOver {
			over = append(over, k.ID)
			continue
		}
		key, err := k.row.key()
		if err != nil {
			return err
		}
		if k.State != KeySigns {
			key = key.Verifying()
		}
		keys, ids = append(keys, key), append(ids, k.ID)
	}
	if len(keys) == 0 {
		return ErrNoKeys
	}
	ring, err := token.NewKeyring(keys...)
	if err != nil {
		return err
	}
	r.current.Store(ring)
	dropped := slices.ContainsFunc(r.known, func(id string) bool { return !slices.Contains(ids, id) })
	r.known = ids
	if dropped && r.o.Dropped != nil {
		r.o.Dropped()
	}
	if len(over) == 0 || r.o.PublicOnly || r.o.ReadOnly {
		return nil
	}
	return r.store.Do(ctx, func(_ context.Context, w *unit.Work) error {
		return w.DB.Exec("DELETE FROM signing_key WHERE id IN ?", over).Error
	})
}

// Rotate is the function of this name, and this process knows the key at once.
func (r *Ring) Rotate(ctx context.Context, o RotateOptions) (KeyInfo, error) {
	info, err := rotateKeys(ctx, r.store, o)
	if err != nil {
		return KeyInfo{}, err
	}
	r.refresh.Now()
	return info, nil
}

// Keys lists the keys of the store.
func (r *Ring) Keys(ctx context.Context) ([]KeyInfo, error) { return listKeys(ctx, r.store) }

// KeyState is what a key is good for.
type KeyState string

// The states of a key, in the order of its life.
const (
	KeyWaits    KeyState = "waits"    // until every process knows it
	KeySigns    KeyState = "signs"    // there is one
	KeyVerifies KeyState = "verifies" // what it has signed before
	KeyOver     KeyState = "over"     // nothing that it has signed is valid any more; it is about to be removed
)

// KeyInfo tells about a key without telling the key.
type KeyInfo struct {
	ID        string     `json:"id"`
	State     KeyState   `json:"state"`
	CreatedAt time.Time  `json:"created_at"`
	SignsAt   time.Time  `json:"signs_at"`
	Until     *time.Time `json:"until,omitempty"` // what it has signed is believed until then; absent as long as it is the last one
}

// RotateOptions say why.
type RotateOptions struct {
	// Compromised: somebody else may have the keys. They are removed and the new one signs at once, so everybody has to
	// refresh a token, and within half a minute no process believes what was signed before.
	Compromised bool
}

// Rotate makes a new signing key. It signs once every process knows it, in two minutes; the one before verifies as long
// as a token of it may be valid, and is removed then. While a key waits there is no other.
func Rotate(ctx context.Context, db *database.DB, o RotateOptions) (KeyInfo, error) {
	return rotateKeys(ctx, keyStore(db, nil), o)
}

// ListKeys lists the signing keys, the one that was made last first.
func ListKeys(ctx context.Context, db *database.DB) ([]KeyInfo, error) {
	return listKeys(ctx, keyStore(db, nil))
}

func listKeys(ctx context.Context, store *unit.Store) ([]KeyInfo, error) {
	rows, err := readKeys(store, ctx, true)
	if err != nil {
		return nil, fmt.Errorf("list signing keys: %w", err)
	}
	infos := make([]KeyInfo, 0, len(rows))
	for _, l := range lives(rows, store.Clock().Now()) {
		infos = append(infos, l.KeyInfo)
	}
	slices.Reverse(infos)
	return infos, nil
}

func rotateKeys(ctx context.Context, store *unit.Store, o RotateOptions) (KeyInfo, error) {
	var info KeyInfo
	err := store.Do(ctx, func(_ context.Context, w *unit.Work) error {
		rows, err := lockKeys(w)
		if err != nil {
			return err
		}
		signsAt := w.Now().Add(announceFor)
		if o.Compromised || len(rows) == 0 {
			signsAt = w.Now()
			if err := w.DB.Exec("DELETE FROM signing_key").Error; err != nil {
				return err
			}
		} else if at := rows[len(rows)-1].signsAt(); at.After(w.Now()) {
			return errs.New(errs.Conflict, "a new key is there already and signs from %s on; rotate again after that", at.Format(time.RFC3339))
		}
		info, err = insertKey(w, signsAt)
		return err
	})
	if err != nil {
		return KeyInfo{}, fmt.Errorf("rotate signing keys: %w", err)
	}
	return info, nil
}

// ensureKey makes the first key, and adds the public half of keys that were stored without it.
func ensureKey(ctx context.Context, store *unit.Store) error {
	return store.Do(ctx, func(_ context.Context, w *unit.Work) error {
		rows, err := lockKeys(w)
		if err != nil {
			return err
		}
		if len(rows) == 0 {
			_, err := insertKey(w, w.Now())
			return err
		}
		for _, row := range rows {
			if row.PublicKey != nil {
				continue
			}
			k, err := row.key()
			if err != nil {
				return err
			}
			if err := w.DB.Exec("UPDATE signing_key SET public_key = ? WHERE id = ?", []byte(k.Public), row.ID).Error; err != nil {
				return err
			}
		}
		return nil
	})
}

func insertKey(w *unit.Work, signsAt time.Time) (KeyInfo, error) {
	k, err := token.NewKey()
	if err != nil {
		return KeyInfo{}, err
	}
	b, err := k.Marshal()
	if err != nil {
		return KeyInfo{}, err
	}
	info := KeyInfo{ID: k.ID, State: KeyWaits, CreatedAt: w.Now(), SignsAt: signsAt}
	if !signsAt.After(w.Now()) {
		info.State = KeySigns
	}
	return info, w.DB.Exec("INSERT INTO signing_key (id, private_key, public_key, created_at, signs_at) VALUES (?, ?, ?, ?, ?)",
		k.ID, b, []byte(k.Public), info.CreatedAt, signsAt).Error
}

// keyRow is a key as it is stored.
type keyRow struct {
	ID         string
	PrivateKey []byte // nil where it was not asked for
	PublicKey  []byte // nil in rows of before
	CreatedAt  time.Time
	SignsAt    *time.Time // nil in rows of before
}

func (r keyRow) signsAt() time.Time {
	if r.SignsAt == nil {
		return r.CreatedAt.UTC()
	}
	return r.SignsAt.UTC()
}

func (r keyRow) key() (token.Key, error) {
	if r.PrivateKey == nil {
		return token.PublicKey(r.PublicKey, r.CreatedAt)
	}
	return token.ParseKey(r.PrivateKey)
}

const (
	selectKeys       = "SELECT id, private_key, public_key, created_at, signs_at FROM signing_key ORDER BY coalesce(signs_at, created_at), id"
	selectPublicKeys = "SELECT id, public_key, created_at, signs_at FROM signing_key WHERE public_key IS NOT NULL ORDER BY coalesce(signs_at, created_at), id"
)

func readKeys(store *unit.Store, ctx context.Context, publicOnly bool) ([]keyRow, error) {
	query := selectKeys
	if publicOnly {
		query = selectPublicKeys
	}
	var rows []keyRow
	err := store.Read(ctx).Raw(query).Scan(&rows).Error
	return rows, err
}

// lockKeys reads the keys and lets nobody else change them before the unit of work ends: replicas that start together on
// an empty store agree on one first key.
func lockKeys(w *unit.Work) ([]keyRow, error) {
	if w.Dialect() == database.Postgres {
		if err := w.DB.Exec("SELECT pg_advisory_xact_lock(?)", keysLock).Error; err != nil {
			return nil, err
		}
	}
	var rows []keyRow
	err := w.DB.Raw(selectKeys).Scan(&rows).Error
	return rows, err
}

// life is a key with what it is good for at a time.
type life struct {
	KeyInfo
	row keyRow
}

// lives says what each key is good for. The rows are in the order in which they sign: one signs until the next one does.
func lives(rows []keyRow, now time.Time) []life {
	all := make([]life, len(rows))
	for i, row := range rows {
		l := life{row: row, KeyInfo: KeyInfo{ID: row.ID, State: KeySigns, CreatedAt: row.CreatedAt.UTC(), SignsAt: row.signsAt()}}
		// With nothing else to sign with, the first one signs before its time: a clock went back.
		if i > 0 && l.SignsAt.After(now) {
			l.State = KeyWaits
		}
		if i+1 < len(rows) {
			next := rows[i+1].signsAt()
			until := next.Add(keepFor)
			l.Until = &until
			switch {
			case !until.After(now):
				l.State = KeyOver
			case !next.After(now):
				l.State = KeyVerifies
			}
		}
		all[i] = l
	}
	return all
}
