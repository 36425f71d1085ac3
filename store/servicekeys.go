package store

import (
	"context"
	"crypto/hmac"
	"strconv"
	"time"
)

// ServiceKey is a key of the service that all its nodes use, sealed by who gave it.
type ServiceKey struct {
	Tenant, Name string
	Generation   int64 // the next one is one higher
	Sealed       []byte
	CreatedAt    time.Time
}

const serviceKeyColumns = `tenant, name, generation, sealed, created_at, mac`

func (k *ServiceKey) key() string {
	return pair(k.Tenant, k.Name) + "/" + strconv.FormatInt(k.Generation, 10)
}

func (db *DB) serviceKeyMAC(k *ServiceKey) []byte {
	return db.cfg.Seal.MAC("service_keys", []byte(k.Tenant), []byte(k.Name), number(k.Generation), k.Sealed, number(millis(k.CreatedAt)))
}

func (db *DB) scanServiceKey(r row) (k ServiceKey, mac []byte, err error) {
	var created int64
	if err := r.Scan(&k.Tenant, &k.Name, &k.Generation, &k.Sealed, &created, &mac); err != nil {
		return k, nil, err
	}
	k.CreatedAt = timeOf(created)
	if !hmac.Equal(mac, db.serviceKeyMAC(&k)) {
		return k, mac, ErrRowTampered.New("Table service_keys, row %s.", k.key())
	}
	return k, mac, nil
}

// ServiceKeys gives the generations of a key, the newest first.
func (db *DB) ServiceKeys(ctx context.Context, tenant, name string) (out []ServiceKey, err error) {
	rows, err := db.query(ctx, `SELECT `+serviceKeyColumns+` FROM service_keys WHERE tenant = $1 AND name = $2 ORDER BY generation DESC`, tenant, name)
	err = each(rows, err, func(r row) error {
		k, _, err := db.scanServiceKey(r)
		out = append(out, k)
		return err
	})
	return out, err
}

// AddServiceKey keeps a new generation, and forgets those before keep. Of several
// nodes that come with the same generation one wins; the others read its key.
func (db *DB) AddServiceKey(ctx context.Context, k ServiceKey, keep int64) error {
	mac := db.serviceKeyMAC(&k)
	return db.Atomic(ctx, func(ctx context.Context) error {
		n, err := db.exec(ctx, `INSERT INTO service_keys (`+serviceKeyColumns+`) VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (tenant, name, generation) DO NOTHING`, k.Tenant, k.Name, k.Generation, k.Sealed, millis(k.CreatedAt), mac)
		if err != nil || n == 0 {
			return err
		}
		txFrom(ctx).reseal("service_keys", k.key(), nil, mac)
		var old []ServiceKey
		var macs [][]byte
		rows, err := db.query(ctx, `SELECT `+serviceKeyColumns+` FROM service_keys WHERE tenant = $1 AND name = $2 AND generation < $3`, k.Tenant, k.Name, keep)
		if err := each(rows, err, func(r row) error {
			k, mac, err := db.scanServiceKey(r)
			old, macs = append(old, k), append(macs, mac)
			return err
		}); err != nil {
			return err
		}
		for i := range old {
			if _, err := db.exec(ctx, `DELETE FROM service_keys WHERE tenant = $1 AND name = $2 AND generation = $3`, old[i].Tenant, old[i].Name, old[i].Generation); err != nil {
				return err
			}
			txFrom(ctx).reseal("service_keys", old[i].key(), macs[i], nil)
		}
		return nil
	})
}
