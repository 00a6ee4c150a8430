CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
CREATE TABLE "answers" (
	id INTEGER NOT NULL, 
	user_id VARCHAR(128) NOT NULL, 
	presentation_id VARCHAR(32) NOT NULL, 
	choice VARCHAR(16) NOT NULL, 
	seconds FLOAT NOT NULL, 
	answered_at DATETIME NOT NULL, 
	undone_at DATETIME, 
	number INTEGER DEFAULT '0' NOT NULL, 
	checksum VARCHAR(64) DEFAULT ('') NOT NULL, 
	CONSTRAINT pk_answers PRIMARY KEY (id), 
	CONSTRAINT fk_answers_user_id_users FOREIGN KEY(user_id) REFERENCES users (id) ON DELETE CASCADE, 
	CONSTRAINT fk_answers_presentation_id_presentations FOREIGN KEY(presentation_id) REFERENCES presentations (id) ON DELETE CASCADE, 
	CONSTRAINT ck_answers_choice CHECK (choice IN ('a', 'b', 'tie', 'neither', 'skip', 'a+', 'b+', 'a++', 'b++', 'c', 'd', 'a>b', 'a>c', 'a>d', 'b>a', 'b>c', 'b>d', 'c>a', 'c>b', 'c>d', 'd>a', 'd>b', 'd>c'))
);
CREATE TABLE bases (
	id VARCHAR(64) NOT NULL, 
	model TEXT NOT NULL, 
	config JSON NOT NULL, 
	created_at DATETIME NOT NULL, 
	CONSTRAINT pk_bases PRIMARY KEY (id)
);
CREATE TABLE comparisons (
	id VARCHAR(32) NOT NULL, 
	trial_id VARCHAR(32) NOT NULL, 
	user_id VARCHAR(128) NOT NULL, 
	presentation_id VARCHAR(32), 
	arm_a VARCHAR(16) NOT NULL, 
	arm_b VARCHAR(16) NOT NULL, 
	failed VARCHAR(16) NOT NULL, 
	checksum VARCHAR(64) NOT NULL, 
	CONSTRAINT pk_comparisons PRIMARY KEY (id), 
	CONSTRAINT fk_comparisons_trial_id_trials FOREIGN KEY(trial_id) REFERENCES trials (id), 
	CONSTRAINT fk_comparisons_user_id_users FOREIGN KEY(user_id) REFERENCES users (id) ON DELETE CASCADE, 
	CONSTRAINT fk_comparisons_presentation_id_presentations FOREIGN KEY(presentation_id) REFERENCES presentations (id) ON DELETE CASCADE
);
CREATE TABLE exposures (
	basis_id VARCHAR(64) NOT NULL, 
	question_id TEXT NOT NULL, 
	shown INTEGER NOT NULL, 
	CONSTRAINT pk_exposures PRIMARY KEY (basis_id, question_id), 
	CONSTRAINT fk_exposures_basis_id_bases FOREIGN KEY(basis_id) REFERENCES bases (id)
);
CREATE TABLE facts (
	name VARCHAR(16) NOT NULL, 
	value TEXT NOT NULL, 
	CONSTRAINT pk_facts PRIMARY KEY (name)
);
CREATE TABLE keys (
	id VARCHAR(16) NOT NULL, 
	kind VARCHAR(16) NOT NULL, 
	name TEXT NOT NULL, 
	digest VARCHAR(64) NOT NULL, 
	created_at DATETIME NOT NULL, 
	revoked_at DATETIME, 
	CONSTRAINT pk_keys PRIMARY KEY (id), 
	CONSTRAINT ck_keys_kind CHECK (kind IN ('backend', 'operator')), 
	CONSTRAINT uq_keys_digest UNIQUE (digest)
);
CREATE TABLE presentations (
	id VARCHAR(32) NOT NULL, 
	user_id VARCHAR(128) NOT NULL, 
	basis_id VARCHAR(64) NOT NULL, 
	question_id TEXT NOT NULL, 
	prompt JSON NOT NULL, 
	a TEXT NOT NULL, 
	b TEXT NOT NULL, 
	swapped BOOLEAN NOT NULL, 
	num_axes INTEGER NOT NULL, 
	v BLOB NOT NULL, 
	checksum VARCHAR(64) NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	shown_at DATETIME NOT NULL, kind VARCHAR(16) DEFAULT 'question' NOT NULL, origin VARCHAR(32), digest VARCHAR(64) DEFAULT '' NOT NULL, graded BOOLEAN DEFAULT '0' NOT NULL, others JSON, 
	CONSTRAINT pk_presentations PRIMARY KEY (id), 
	CONSTRAINT ck_presentations_state CHECK (state IN ('open', 'answered', 'withdrawn')), 
	CONSTRAINT fk_presentations_basis_id_bases FOREIGN KEY(basis_id) REFERENCES bases (id), 
	CONSTRAINT fk_presentations_user_id_users FOREIGN KEY(user_id) REFERENCES users (id) ON DELETE CASCADE
);
CREATE TABLE profiles (
	user_id VARCHAR(128) NOT NULL, 
	basis_id VARCHAR(64) NOT NULL, 
	revision INTEGER NOT NULL, 
	standing INTEGER NOT NULL, 
	answers INTEGER NOT NULL, 
	informative INTEGER NOT NULL, 
	num_axes INTEGER NOT NULL, 
	mean BLOB NOT NULL, 
	covariance BLOB NOT NULL, 
	checksum VARCHAR(64) NOT NULL, 
	created_at DATETIME NOT NULL, stated INTEGER, logged BLOB, 
	CONSTRAINT pk_profiles PRIMARY KEY (user_id, basis_id), 
	CONSTRAINT fk_profiles_basis_id_bases FOREIGN KEY(basis_id) REFERENCES bases (id), 
	CONSTRAINT fk_profiles_user_id_users FOREIGN KEY(user_id) REFERENCES users (id) ON DELETE CASCADE
);
CREATE TABLE statements (
	user_id VARCHAR(128) NOT NULL, 
	number INTEGER NOT NULL, 
	axis TEXT NOT NULL, 
	kind VARCHAR(16) NOT NULL, 
	position FLOAT, 
	words TEXT NOT NULL, 
	stated_at DATETIME NOT NULL, 
	checksum VARCHAR(64) NOT NULL, 
	CONSTRAINT pk_statements PRIMARY KEY (user_id, number), 
	CONSTRAINT ck_statements_kind CHECK (kind IN ('set', 'said')), 
	CONSTRAINT fk_statements_user_id_users FOREIGN KEY(user_id) REFERENCES users (id) ON DELETE CASCADE
);
CREATE TABLE tombstones (
	digest VARCHAR(64) NOT NULL, 
	at DATETIME NOT NULL, number INTEGER DEFAULT '0' NOT NULL, 
	CONSTRAINT pk_tombstones PRIMARY KEY (digest)
);
CREATE TABLE trials (
	id VARCHAR(32) NOT NULL, 
	basis_id VARCHAR(64) NOT NULL, 
	arms TEXT NOT NULL, 
	started_at DATETIME NOT NULL, 
	stopped_at DATETIME, 
	num_erased INTEGER NOT NULL, 
	checksum VARCHAR(64) NOT NULL, 
	CONSTRAINT pk_trials PRIMARY KEY (id), 
	CONSTRAINT fk_trials_basis_id_bases FOREIGN KEY(basis_id) REFERENCES bases (id)
);
CREATE TABLE users (
	id VARCHAR(128) NOT NULL, 
	created_at DATETIME NOT NULL, 
	consent TEXT, 
	consent_at DATETIME, home VARCHAR(64), paused_at DATETIME, 
	CONSTRAINT pk_users PRIMARY KEY (id)
);
CREATE TABLE writes (
	digest VARCHAR(64) NOT NULL, 
	request VARCHAR(64) NOT NULL, 
	expires_at DATETIME NOT NULL, 
	CONSTRAINT pk_writes PRIMARY KEY (digest)
);
CREATE INDEX ix_answers_presentation_id ON answers (presentation_id);
CREATE INDEX ix_answers_user_id_number ON answers (user_id, number);
CREATE INDEX ix_comparisons_presentation_id ON comparisons (presentation_id);
CREATE INDEX ix_comparisons_trial_id_user_id ON comparisons (trial_id, user_id);
CREATE INDEX ix_comparisons_user_id ON comparisons (user_id);
CREATE INDEX ix_presentations_user_id_basis_id_question_id ON presentations (user_id, basis_id, question_id);
CREATE INDEX ix_tombstones_number ON tombstones (number);
CREATE INDEX ix_users_home ON users (home);
CREATE INDEX ix_writes_expires_at ON writes (expires_at);
CREATE UNIQUE INDEX uq_answers_live ON answers (presentation_id) WHERE undone_at IS NULL;
CREATE UNIQUE INDEX uq_presentations_open ON presentations (user_id, basis_id) WHERE state = 'open' AND kind <> 'trial';
CREATE UNIQUE INDEX uq_trials_running ON trials (basis_id) WHERE stopped_at IS NULL
