"""A stand-in for Supabase Realtime: its wire, its authorisation by RLS, its HTTP doors; nothing of the product."""
